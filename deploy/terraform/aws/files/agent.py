# Made by tools/pack_agent.py from src/lamplighter/node: read and change it there.
from __future__ import annotations;import base64, calendar, contextlib, hashlib, hmac, http.client, http.server, ipaddress, json, logging, os, queue, re, secrets, shutil, signal, socket, socketserver, subprocess, sys, threading, time
from collections.abc import Callable, Mapping, Sequence;from dataclasses import dataclass, field;from pathlib import Path;from typing import Any, Protocol;from urllib.parse import parse_qs, quote, urlencode, urlsplit;VERSION = 1
BODY_LIMIT = 1 << 20;LOG_LIMIT = 1 << 18
SIGNS = (('out_of_memory', 'out of memory|OutOfMemory|bad_alloc|cudaMalloc failed|No available memory|KV cache is needed|more system memory'), ('disk_full', '[Nn]o space left'), ('gated_model', '[Gg]ated ?[Rr]epo|Access to model|401 Client Error'), ('model_not_found', 'RepositoryNotFound|not a valid model|EntryNotFound|404 Client Error|file does not exist'), ('download_failed', 'MaxRetryError|ConnectionError|name resolution|no such host|dial tcp|timeout|connection reset'), ('model_corrupt', 'SafetensorError|HeaderTooLarge|digest mismatch|failed to load model'), ('engine_refused', 'error: (unrecognized|argument|invalid)|(unknown|invalid) argument'), ('engine_missing', 'No CUDA GPUs|NVIDIA driver|device driver|nvidia-container-cli|architecture'))
log = logging.getLogger('lamplighter.node')
class Broken(Exception):
 def __init__(f, reason, detail):
  super().__init__(detail);f.reason, f.detail = (reason, detail)
def judge(text, bg='engine_crashed'):
 return next((reason for reason, bC in SIGNS if re.search(bC, text)), bg)
def last_lines(text, ai=3):
 Y = [ag.strip() for ag in text.splitlines() if ag.strip()];return ' | '.join(Y[-ai:])[-600:] or 'no output'
def boottime():
 return time.clock_gettime(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))
def write(path, q, mode=384):
 path.parent.mkdir(parents=True, exist_ok=True);aK = path.with_name(f'.{path.name}.{os.getpid()}.{threading.get_ident()}');bh = os.open(aK, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
 with os.fdopen(bh, 'w') as u:
  u.write(q)
 aK.replace(path)
def tail(path, Z):
 try:
  with path.open('rb') as u:
   u.seek(max(0, u.seek(0, os.SEEK_END) - Z));return u.read(Z).decode(errors='replace')
 except OSError:
  return ''
def run(r, timeout, stdin=''):
 try:
  return subprocess.run(r, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace', timeout=timeout, check=False)
 except subprocess.TimeoutExpired as n:
  return subprocess.CompletedProcess(r, 124, str(n), '')
 except OSError as n:
  return subprocess.CompletedProcess(r, 127, str(n), '')
@dataclass(frozen=True)
class Settings:
 region: str;nodes_queue_url: str;bucket: str;node_role_id: str;boot_deadline: float;lease: float;drain: float;mode: str = 'node';agent_port: int = 7443;bake: Mapping[str, Any] = field(default_factory=dict)
 testing: Mapping[str, Any] = field(default_factory=dict)
 @classmethod
 def parse(am, h):
  if h.get('version') != VERSION:
   raise ValueError(f"node.json has version {h.get('version')!r}, this agent knows {VERSION}")
  return am(**{name: h[name] for name in am.__dataclass_fields__ if name in h})
 def path(f, bm):
  return Path(f.testing.get('root', '/')) / bm.lstrip('/')
 def url(f, o, bn):
  return str(f.testing.get(f'{o}_url', bn)).rstrip('/')
def x25519(bi, bj=9 .to_bytes(32, 'little')):
 p = 2 ** 255 - 19;k = int.from_bytes(bi, 'little') & ~7 & (1 << 255) - 1 | 1 << 254;aL = (int.from_bytes(bj, 'little') & (1 << 255) - 1) % p;L, M, U, V, aq = (1, 0, aL, 1, 0)
 for t in range(254, -1, -1):
  aP = k >> t & 1
  if aq ^ aP:
   L, U, M, V = (U, L, V, M)
  aq = aP;a, b, c, d = ((L + M) % p, (L - M) % p, (U + V) % p, (U - V) % p);aX, aY, aG, aZ = (d * a % p, c * b % p, a * a % p, b * b % p);U, V, L, e = (pow(aX + aY, 2, p), aL * pow(aX - aY, 2, p) % p, aG * aZ % p, (aG - aZ) % p)
  M = e * (aG + 121665 * e) % p
 if aq:
  L, M = (U, V)
 return (L * pow(M, p - 2, p) % p).to_bytes(32, 'little')
def pem(aM, q):
 text = base64.b64encode(q).decode();Y = '\n'.join((text[y:y + 64] for y in range(0, len(text), 64)));return f'-----BEGIN {aM}-----\n{Y}\n-----END {aM}-----\n'
def unpem(text):
 i = re.search('-----BEGIN [A-Z0-9 ]+-----\\s([A-Za-z0-9+/=\\s]+)-----END', text)
 if i is None:
  raise ValueError('not PEM')
 return base64.b64decode(i[1])
def own_key(path):
 if not path.exists():
  write(path, pem('NEBULA X25519 PRIVATE KEY', secrets.token_bytes(32)))
 return pem('NEBULA X25519 PUBLIC KEY', x25519(unpem(path.read_text())))
METADATA = 'http://169.254.169.254'
def fetch(E, url, A, m=b'', timeout=5.0):
 s = urlsplit(url);ar = http.client.HTTPSConnection if s.scheme == 'https' else http.client.HTTPConnection;au = ar(s.hostname or '', s.port, timeout=timeout)
 try:
  au.request(E, s.path or '/', m or None, dict(A));N = au.getresponse();return (N.status, N.read(4 * BODY_LIMIT))
 except http.client.HTTPException as n:
  raise OSError(f'{s.hostname}: {n!r}') from n
 finally:
  au.close()
class Metadata:
 def __init__(f, z):
  f._base = z;f._token, f._token_until = ('', 0.0);f._credentials = (0.0, {})
 def get(f, path):
  if time.monotonic() > f._token_until:
   status, m = fetch('PUT', f'{f._base}/latest/api/token', {'X-aws-ec2-metadata-token-ttl-seconds': '3600'}, timeout=2)
   if status != 200:
    raise OSError(f'the metadata service answers {status}')
   f._token, f._token_until = (m.decode(), time.monotonic() + 3000)
  status, m = fetch('GET', f'{f._base}/latest/meta-data/{path}', {'X-aws-ec2-metadata-token': f._token}, timeout=2)
  if status == 404:
   return None
  if status != 200:
   f._token_until = 0.0;raise OSError(f'the metadata service answers {status}')
  return m.decode()
 def credentials(f):
  if time.monotonic() > f._credentials[0]:
   ba = (f.get('iam/security-credentials/') or '').split('\n')[0];i = json.loads((f.get(f'iam/security-credentials/{ba}') if ba else None) or '{}')
   if 'AccessKeyId' not in i:
    raise OSError('the instance has no role')
   f._credentials = (time.monotonic() + 120, i)
  return f._credentials[1]
def sign(E, url, A, m, F, region, o, y):
 s = urlsplit(url);av = time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(y));aN = hashlib.sha256(m).hexdigest();R = {name.lower(): B for name, B in A.items()} | {'host': s.netloc, 'x-amz-date': av}
 if F.get('Token'):
  R['x-amz-security-token'] = F['Token']
 if o == 's3':
  R['x-amz-content-sha256'] = aN
 aj = ';'.join(sorted(R));Y = ''.join((f'{name}:{R[name]}\n' for name in sorted(R)));bk = '\n'.join((E, s.path or '/', '', Y, aj, aN));aw = f'{av[:8]}/{region}/{o}/aws4_request';key = b'AWS4' + F['SecretAccessKey'].encode()
 for ax in aw.split('/'):
  key = hmac.new(key, ax.encode(), hashlib.sha256).digest()
 text = f'AWS4-HMAC-SHA256\n{av}\n{aw}\n{hashlib.sha256(bk.encode()).hexdigest()}';bl = hmac.new(key, text.encode(), hashlib.sha256).hexdigest();B = f"AWS4-HMAC-SHA256 Credential={F['AccessKeyId']}/{aw}, SignedHeaders={aj}, Signature={bl}"
 return R | {'authorization': B}
class Aws:
 def __init__(f, g, al):
  f._settings, f._metadata = (g, al);f._suffix = 'amazonaws.com' + ('.cn' if g.region.startswith('cn-') else '')
 def send(f, C, timeout=5.0):
  s = urlsplit(f._settings.nodes_queue_url);z = f._settings.url('sqs', f'{s.scheme}://{s.netloc}');O = {'Action': 'SendMessage', 'Version': '2012-11-05', 'MessageBody': json.dumps(C)};f._query('sqs', f'{z}{s.path}', O, timeout)
 def get(f, key):
  status, m = f._call('GET', f._object(key), {}, b'', 's3')
  if status in (403, 404):
   return None
  if status != 200:
   raise OSError(f's3 answers {status}')
  return m
 def put(f, key, m, timeout=5.0):
  status, N = f._call('PUT', f._object(key), {'content-type': 'text/plain; charset=utf-8'}, m, 's3', timeout)
  if status != 200:
   raise OSError(f's3 answers {status}: {N[:200]!r}')
 def terminate(f, ac):
  O = {'InstanceId': ac, 'ShouldDecrementDesiredCapacity': 'true'};bo = {'Action': 'TerminateInstanceInAutoScalingGroup', 'Version': '2011-01-01'};f._query('autoscaling', f._endpoint('autoscaling'), bo | O)
 def attach(f, an, ac):
  O = {'Action': 'AttachVolume', 'Version': '2016-11-15', 'VolumeId': an, 'InstanceId': ac, 'Device': '/dev/sdf'};f._query('ec2', f._endpoint('ec2'), O)
 def secret(f, name):
  i = f._json('secretsmanager', f._endpoint('secretsmanager'), 'secretsmanager.GetSecretValue', {'SecretId': name});return str(i['SecretString'])
 def registry_password(f):
  z = f._settings.url('ecr', f'https://api.ecr.{f._settings.region}.{f._suffix}');i = f._json('ecr', z, 'AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken', {})
  return base64.b64decode(i['authorizationData'][0]['authorizationToken']).decode().partition(':')[2]
 def _endpoint(f, o):
  return f._settings.url(o, f'https://{o}.{f._settings.region}.{f._suffix}')
 def _object(f, key):
  bucket = f._settings.bucket;z = f._settings.url('s3', '');z = f'{z}/{bucket}' if z else f'https://{bucket}.s3.{f._settings.region}.{f._suffix}';return f"{z}/{quote(key, safe='/-_.~')}"
 def _call(f, E, url, A, m, o, timeout=5.0):
  F = f._metadata.credentials();return fetch(E, url, sign(E, url, A, m, F, f._settings.region, o, time.time()), m, timeout)
 def _query(f, o, url, O, timeout=5.0):
  f._post(o, url, {'content-type': 'application/x-www-form-urlencoded; charset=utf-8'}, urlencode(O), timeout)
 def _json(f, o, url, target, bp):
  A = {'content-type': 'application/x-amz-json-1.1', 'x-amz-target': target};return json.loads(f._post(o, url, A, json.dumps(bp)))
 def _post(f, o, url, A, m, timeout=5.0):
  status, N = f._call('POST', url, A, m.encode(), o, timeout)
  if status != 200:
   raise OSError(f'{o} answers {status}: {N[:400]!r}')
  return N
class Deadman:
 def __init__(f, path, g, *, clock=boottime, bq=time.time, boot_id=''):
  f.boot_deadline, f.lease, f.drain = (g.boot_deadline, g.lease, g.drain);f.ending = None;f._path, f._clock, f._wall, f._boot_id = (path, clock, bq, boot_id);f._lock = threading.Lock();f.born = clock();f._until = None;f._restore();f._save()
 def _restore(f):
  P = f._clock()
  try:
   D = json.loads(f._path.read_text());bc = 0.0 if D['boot'] == f._boot_id else P - D['clock'] - max(0.0, f._wall() - D['wall']);f.born = min(P, D['born'] + bc);f._until = None if D['until'] is None else min(P + f.lease, D['until'] + bc)
   f.ending = D['ending']
  except FileNotFoundError:
   return
  except (OSError, ValueError, KeyError, TypeError) as n:
   log.warning("the dead-man's file is not readable (%r): one lease is left", n);f._until = P + f.lease
 def _save(f):
  D = {'boot': f._boot_id, 'born': f.born, 'until': f._until, 'ending': f.ending}
  try:
   write(f._path, json.dumps(D | {'clock': f._clock(), 'wall': f._wall()}))
  except OSError as n:
   log.warning("the dead-man's file cannot be written: %s", n)
 def renew(f, v):
  with f._lock:
   bd = max(0.0, min(v, f.lease));f._until = f._clock() + bd;f._save();return bd
 def end(f, reason):
  f.ending = f.ending or reason
 def keep(f):
  with f._lock:
   f._save()
 def remaining(f):
  br = f.born + f.boot_deadline if f._until is None else f._until;return max(0.0, br - f._clock())
 def due(f):
  P = f._clock()
  if f.ending:
   return f.ending
  if f._until is None:
   return 'boot_deadline' if P >= f.born + f.boot_deadline else None
  return 'lease' if P >= f._until + f.drain else None
STAGES = ('boot', 'mesh', 'pull', 'load')
@dataclass
class Stage:
 name: str;wanted: bool = False;finished: bool = False;started_at: float | None = None;ended_at: float | None = None;progress: float | None = None;detail: str | None = None
class Stages:
 def __init__(f, path, ad):
  f._path, f._tell = (path, ad);f._lock = threading.RLock();f._all = {name: Stage(name) for name in STAGES}
  with contextlib.suppress(OSError, ValueError, TypeError):
   f._all |= {x['name']: Stage(**x) for x in json.loads(path.read_text()) if x['name'] in STAGES}
 def begin(f, name):
  f._change(name, wanted=True)
 def end(f, name):
  f._change(name, wanted=True, finished=True)
 def update(f, name, progress, detail):
  f._change(name, progress=progress, detail=detail);j = f._all[name]
  if j.started_at and (not j.ended_at):
   f._tell(j, 'progress')
 def current(f):
  return next((name for name in STAGES if f._all[name].ended_at is None), STAGES[-1])
 def listed(f):
  F = ('name', 'started_at', 'ended_at', 'progress', 'detail')
  with f._lock:
   return [{key: getattr(x, key) for key in F} for x in f._all.values() if x.started_at]
 def _change(f, name, **bs):
  ay = []
  with f._lock:
   for key, B in bs.items():
    setattr(f._all[name], key, B)
   for j in f._all.values():
    if j.wanted and j.started_at is None:
     j.started_at = time.time();ay.append((j, 'begin'))
    if j.finished and j.ended_at is None:
     j.ended_at = time.time();ay.append((j, 'end'))
    if j.ended_at is None:
     break
   with contextlib.suppress(OSError):
    write(f._path, json.dumps([vars(x) for x in f._all.values()]))
  for j, state in ay:
   f._tell(j, state)
NEBULA_FILES = ('config.yml', 'ca.crt', 'node.crt')
@dataclass(frozen=True)
class Engine:
 image: str;port: int;arguments: tuple[str, ...] = ();environment: Mapping[str, str] = field(default_factory=dict);secrets: Mapping[str, str] = field(default_factory=dict);key: str = field(default='', repr=False);weights: str = '/models'
 health: str = '/health';prepare: tuple[str, ...] = ()
@dataclass(frozen=True)
class Assignment:
 replica: str;model: str;overlay: str;nebula: Mapping[str, str];agent_token: str = field(repr=False);engine: Engine;hub_token_secret: str | None = None;limits: Mapping[str, float] = field(default_factory=dict)
 @classmethod
 def parse(am, h, ac):
  try:
   if h['version'] != VERSION or h['instance'] != ac:
    raise ValueError(f"it is of version {h['version']!r} for {h['instance']!r}")
   K = h['engine'];bA = {name: K[name] for name in Engine.__dataclass_fields__ if name in K};engine = Engine(**bA | {name: tuple(map(str, K.get(name, ()))) for name in ('arguments', 'prepare')})
   if not 0 < engine.port < 65536 or not str(engine.image).strip() or engine.image.startswith('-'):
    raise ValueError('its port or image is impossible')
   if '\n' in ''.join((f'{name}{B}' for name, B in engine.environment.items())) + engine.key or len(h['agent_token']) < 16:
    raise ValueError('its environment, key or token is of no use')
   limits = {name: float(h[name]) for name in ('lease', 'boot_deadline', 'drain') if name in h};overlay = str(ipaddress.IPv4Address(h['overlay']));nebula = nebula_files(h['nebula'])
   token, secret = (str(h['agent_token']), h.get('hub_token_secret'));return am(str(h['replica']), str(h['model']), overlay, nebula, token, engine, secret, limits)
  except (KeyError, TypeError, AttributeError) as n:
   raise ValueError(repr(n)) from n
def nebula_files(I):
 if not isinstance(I, dict) or not I or (not set(I) <= set(NEBULA_FILES)):
  raise ValueError(f'files of Nebula are {NEBULA_FILES}')
 if not all((isinstance(text, str) and 0 < len(text) < BODY_LIMIT for text in I.values())):
  raise ValueError('a file of Nebula is a text')
 return I
class Docker:
 name = 'lamplighter-engine'
 def __init__(f, g, T, az=3.0):
  f._settings, f._aws, f._pause = (g, T, az)
 def ready(f):
  return f._settings.path('/run/lamplighter/runtime.ready').exists()
 def pull(f, image, ad):
  if run(('docker', 'image', 'inspect', image), 30).returncode == 0:
   return
  aQ = re.match('(\\d{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(\\.cn)?)/', image);text = ''
  for aA in range(3):
   time.sleep(aA * f._pause)
   if aQ:
    try:
     bD = f'docker login --username AWS --password-stdin {aQ[1]}';run(bD.split(), 30, f._aws.registry_password())
    except OSError as n:
     log.warning('no password for the registry: %s', n)
   l, text = f._pull(image, ad)
   if l:
    return
   if re.search('manifest unknown|not found|denied|unauthorized|invalid reference', text):
    raise Broken('bad_image', last_lines(text, 1))
  raise Broken(judge(text, 'download_failed'), last_lines(text, 1))
 def _pull(f, image, ad):
  bt = {'Download complete': 0.5, 'Extracting': 0.6, 'Pull complete': 1.0, 'Already exists': 1.0};W = {};text = ''
  try:
   ah = subprocess.Popen(('docker', 'pull', image), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  except OSError as n:
   raise Broken('engine_missing', f'docker: {n.strerror}') from n
  with ah:
   for ag in ah.stdout or ():
    text = (text + ag)[-4000:]
    if (i := re.match('([0-9a-f]{12}): (\\w+(?: \\w+)*)', ag)):
     W[i[1]] = max(W.get(i[1], 0.0), bt.get(i[2], 0.0));l = sum((aI == 1 for aI in W.values()));ad(sum(W.values()) / len(W), f'image: {l} of {len(W)} layers')
  return (ah.returncode == 0, text)
 def start(f, Q, host, environment, weights):
  engine = Q.engine;run(('docker', 'rm', '--force', f.name), 30);u = f._settings.path('/run/lamplighter/engine.env');write(u, ''.join((f'{name}={B}\n' for name, B in environment.items())))
  bu = f'--detach --name {f.name} --gpus all --shm-size 8g --restart no --pull never --security-opt no-new-privileges --log-driver local --log-opt max-size=20m --log-opt max-file=2 --publish {host}:{engine.port}:{engine.port} --env-file {u}'
  an = ('--volume', f'{weights}:{engine.weights}');r = ('docker', 'run', *bu.split(), *an, engine.image, *engine.arguments);l = run(r, 120);u.unlink(missing_ok=True)
  if l.returncode != 0:
   raise Broken(judge(l.stdout, 'engine_missing'), last_lines(l.stdout, 1))
 def state(f):
  l = run(('docker', 'inspect', '--format', '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}', f.name), 20);ao = l.stdout.split()
  if l.returncode != 0 or len(ao) != 3:
   return ('absent' if 'o such' in l.stdout else 'unknown', None)
  if ao[0] in ('exited', 'dead'):
   return ('exited', 137 if ao[2] == 'true' else int(ao[1]))
  return ('running', None)
 def execute(f, r, timeout):
  return run(('docker', 'exec', f.name, *r), timeout)
 def logs(f):
  return run(('docker', 'logs', '--tail', '2000', f.name), 5).stdout
class Nebula:
 def __init__(f, g):
  f._fingerprint = None;f._folder = g.path('/etc/nebula');f._pid = g.path('/run/lamplighter/nebula.pid');f._log = g.path('/var/log/lamplighter/nebula.log')
 def install(f, I):
  for name, text in I.items():
   write(f._folder / name, text)
  f._fingerprint = None
  if (J := f._running()):
   os.kill(J, signal.SIGHUP)
 def installed(f):
  return shutil.which('nebula') is not None
 def start(f):
  f._log.parent.mkdir(parents=True, exist_ok=True)
  with f._log.open('ab') as be:
   r = ('nebula', '-config', str(f._folder / 'config.yml'));ah = subprocess.Popen(r, stdin=subprocess.DEVNULL, stdout=be, stderr=be, start_new_session=True)
  write(f._pid, str(ah.pid))
 def alive(f):
  return f._running() > 0
 def fingerprint(f):
  if f._fingerprint is None:
   l = run(('nebula-cert', 'print', '-json', '-path', str(f._folder / 'node.crt')), 5);i = re.search('"fingerprint": *"([0-9a-f]{64})"', l.stdout);f._fingerprint = i[1] if i else None
  return f._fingerprint
 def _running(f):
  try:
   J = int(f._pid.read_text())
   if b'nebula' not in Path(f'/proc/{J}/cmdline').read_bytes():
    return _reaped(J)
  except (OSError, ValueError):
   return 0
  return J
def _reaped(J):
 os.waitpid(J, os.WNOHANG);return 0
QUIET = 4
@dataclass
class EngineState:
 state: str = 'waiting';detail: str | None = None;exit: int | None = None
class Launch:
 def __init__(f, g, Q, ab, T, bv, host, bw, az):
  f._settings, f._assignment, f._engine = (g, Q, Q.engine);f._docker, f._aws, f._stages, f._host, f._shown, f._pause = (ab, T, bv, host, bw, az);f._weights = g.path('/var/lib/lamplighter/models')
  wanted = (f._engine.image, f._engine.arguments, f._engine.prepare);f._complete = f._weights / f'.lamplighter-{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]}'
 def pull(f):
  while not f._docker.ready():
   f._pause(0.2)
  f._stages.begin('pull');f._show('pulling');f._docker.pull(f._engine.image, lambda aI, detail: f._stages.update('pull', aI, detail))
 def start(f):
  aR = f._settings.path('/run/lamplighter/engine.started')
  if not aR.exists() and f._docker.state()[0] != 'running':
   f._docker.start(f._assignment, f._host, f._environment(), f._weights);write(aR, '')
 def watch(f):
  f._show('starting');f._await()
  with contextlib.suppress(OSError):
   write(f._complete, '', 420)
  f._stages.end('pull');f._stages.end('load');f._show('ready');state, G = f._docker.state()
  while state not in ('exited', 'absent'):
   f._pause(2);state, G = f._docker.state()
  f._show('exited', last_lines(f._docker.logs()), G)
 def _environment(f):
  aB = {'key': f._engine.key}
  if (name := f._assignment.hub_token_secret) and 'hub_token' in f._engine.secrets.values():
   try:
    aB['hub_token'] = f._aws.secret(name).strip()
   except (OSError, KeyError, ValueError) as n:
    log.warning('no token for the hub: %s', n)
  bx = {name: aB[H] for name, H in f._engine.secrets.items() if aB.get(H)};return {**f._engine.environment, **bx}
 def _await(f):
  ap = QUIET if f._complete.exists() else None;X = None
  while True:
   f._check();bf = downloading(f._weights)
   if bf is not None:
    ap = 0;f._stages.update('pull', None, f'weights: {bf / 1000000000.0:.1f} GB')
   elif ap is not None:
    ap += 1
    if ap > QUIET:
     f._stages.end('pull');f._stages.begin('load')
   if X is None and f._answers():
    if not f._engine.prepare:
     return
    X = f._prepare()
   if X:
    if X[0].returncode == 0:
     return
    raise Broken(judge(X[0].stdout, 'download_failed'), last_lines(X[0].stdout))
   f._pause(0.5)
 def _check(f):
  state, G = f._docker.state()
  if state in ('exited', 'absent'):
   text = f._docker.logs();f._show('exited', last_lines(text), G);reason = 'out_of_memory' if G == 137 else judge(text);raise Broken(reason, f'the engine ended with status {G}: {last_lines(text)}')
 def _prepare(f):
  l = []
  def work():
   l.append(f._docker.execute(f._engine.prepare, 86400))
  threading.Thread(target=work, daemon=True, name='prepare').start();return l
 def _answers(f):
  try:
   return fetch('GET', f'http://{f._host}:{f._engine.port}{f._engine.health}', {}, timeout=2)[0] == 200
  except OSError:
   return False
 def _show(f, state, detail=None, G=None):
  f._shown.state, f._shown.detail, f._shown.exit = (state, detail, G)
def downloading(S):
 aS, aC = (0.0, False)
 for by, _, aj in os.walk(S):
  for name in aj:
   aC = aC or name.endswith(('.incomplete', '.downloadInProgress')) or '-partial' in name
   with contextlib.suppress(OSError):
    aS += (Path(by) / name).lstat().st_blocks * 512
 return aS if aC else None
LOGS = ('bootstrap', 'engine', 'nebula', 'agent');_OK: dict[str, Any] = {'ok': True}
class Server(http.server.ThreadingHTTPServer):
 daemon_threads = True;request_queue_size = 16
 def __init__(f, ak, w):
  super().__init__(ak, Handler);f.agent = w;f._free = threading.Semaphore(16)
 def server_bind(f):
  socketserver.TCPServer.server_bind(f)
 def process_request(f, ae, af):
  if f._free.acquire(blocking=False):
   super().process_request(ae, af)
  else:
   f.shutdown_request(ae)
 def process_request_thread(f, ae, af):
  try:
   super().process_request_thread(ae, af)
  finally:
   f._free.release()
 def handle_error(f, ae, af):
  log.debug('a request of %s broke', af, exc_info=True)
class Handler(http.server.BaseHTTPRequestHandler):
 server: Server;timeout = 5;server_version, sys_version = ('lamplighter-agent', '')
 def do_GET(f):
  f._do('GET')
 def do_POST(f):
  f._do('POST')
 def _do(f, E):
  url = urlsplit(f.path)
  try:
   if url.path == '/health':
    status, q = (200, _OK)
   elif f._allowed():
    status, q = f._route(f'{E} {url.path}', parse_qs(url.query))
   else:
    status, q = (401, {'error': 'unauthorized'})
  except (ValueError, KeyError, TypeError) as n:
   status, q = (400, {'error': str(n)[:200]})
  except OSError as n:
   status, q = (500, {'error': str(n)[:200]})
  text = q if isinstance(q, str) else json.dumps(q);f.send_response(status);f.send_header('Content-Type', 'text/plain; charset=utf-8' if isinstance(q, str) else 'application/json');f.end_headers()
  f.wfile.write(text.encode(errors='replace'))
  if status == 202:
   f.server.agent.ask_end('asked')
 def _route(f, H, aT):
  w = f.server.agent
  if H == 'GET /status':
   return (200, w.status())
  if H == 'GET /logs':
   name, ai = (aT['name'][0], int(aT.get('bytes', ['65536'])[0]))
   if name not in LOGS or ai < 1:
    raise ValueError(f'name is one of {LOGS}')
   return (200, w.log(name, min(ai, BODY_LIMIT)))
  if H == 'POST /lease':
   v = f._body()['seconds']
   if type(v) not in (int, float) or not 0 < v < 1000000.0:
    raise ValueError('seconds is a number above 0')
   if w.deadman.ending:
    return (409, {'error': f'ending: {w.deadman.ending}'})
   return (200, {'remaining': w.deadman.renew(v)})
  if H == 'POST /nebula':
   w.nebula.install(nebula_files(f._body()['files']));return (200, {'fingerprint': w.nebula.fingerprint()})
  if H == 'POST /end':
   log.warning('asked to end: %.200r', f._body().get('reason'));return (202, _OK)
  return (404, {'error': 'not found'})
 def _allowed(f):
  w = f.server.agent;K = (f.headers.get('Authorization') or '').encode('utf-8', 'surrogateescape')
  if not hmac.compare_digest(K, f'Bearer {w.token}'.encode()):
   return False
  w.met();return True
 def _body(f):
  aU = int(f.headers.get('Content-Length', 0))
  if not 0 <= aU <= BODY_LIMIT:
   raise ValueError('the body is too large')
  m = json.loads(f.rfile.read(aU) or b'{}')
  if not isinstance(m, dict):
   raise TypeError('the body is not an object')
  return m
 def log_message(f, format, *bH):
  pass
SPOT_MARGIN = 20.0;FAREWELL, TERMINATE = (10.0, 15.0)
class Agent:
 def __init__(f, g, *, ab=None, nebula=None, clock=boottime):
  f.settings = g;f.metadata = Metadata(g.url('metadata', METADATA));f.aws = Aws(g, f.metadata);f.docker = ab or Docker(g, f.aws);f.nebula = nebula or Nebula(g);f.boot_id = tail(Path('/proc/sys/kernel/random/boot_id'), 64).strip()
  f.deadman = Deadman(g.path('/var/lib/lamplighter/deadman.json'), g, clock=clock, boot_id=f.boot_id);f.instance, f.public_key = ('', '');f.assignment = None;f.engine = EngineState();f.notice = None;f.failure = None;f.steps = {}
  f._clock = clock;f._outbox = queue.Queue(256);f._told = 0.0;f._threads = set[str]();f._wake, f._stopped = (threading.Event(), threading.Event());f.stages = Stages(g.path('/run/lamplighter/stages.json'), f._tell)
 def run(f):
  for work in (f._follow_steps, f._send, f._live, f._watch_spot):
   f._spawn(work)
  while not f._stopped.is_set():
   if (reason := f.deadman.due()):
    return f.end(reason)
   watchdog();f._wake.wait(1.0);f._wake.clear()
  return 0
 def stop(f):
  f._stopped.set();f._wake.set()
 def end(f, reason):
  f.deadman.end(reason);f._limited(FAREWELL, lambda: f._farewell(reason));aD = f.settings.mode == 'node' and f._limited(TERMINATE, f._terminate);r = f.settings.testing.get('shutdown', ()) if f.settings.testing else ('shutdown', '-h', 'now')
  aD = bool(r) and run(r, 5).returncode == 0 or aD;f._stopped.set();return 0 if aD else 1
 def _limited(f, v, work):
  l = threading.Event()
  def whole():
   work();l.set()
  try:
   threading.Thread(target=whole, daemon=True).start()
  except RuntimeError:
   return False
  return l.wait(v)
 def _farewell(f, reason):
  log.warning('the node ends: %s', reason);f.deadman.keep();detail = f.failure['detail'] if f.failure else None
  with contextlib.suppress(OSError, ValueError, KeyError):
   f._identify();f.aws.send(f._message('end', reason=reason, detail=detail, failure=f.failure), timeout=3)
   for name in LOGS:
    if (text := f.log(name, LOG_LIMIT)):
     f.aws.put(f'nodes/{f.sender}/logs/{name}.log', text.encode(), timeout=3)
 def _terminate(f):
  while not f._stopped.is_set():
   try:
    f._identify();f.aws.terminate(f.instance);return
   except (OSError, ValueError, KeyError) as n:
    log.warning('AWS does not end this instance: %s', n)
   f._stopped.wait(1)
 @property
 def sender(f):
  return f'{f.settings.node_role_id}:{f.instance}'
 def _identify(f):
  f.instance = f.instance or f.metadata.get('instance-id') or ''
 @property
 def host(f):
  assert f.assignment is not None;return str(f.settings.testing.get('agent_host', f.assignment.overlay))
 def _live(f):
  f.stages.begin('boot')
  while not f.instance:
   try:
    f._identify()
   except OSError as n:
    log.warning('who am I? %s', n);f._pause(1)
  if f.settings.mode == 'bake':
   return
  f.public_key = own_key(f.settings.path('/etc/nebula/node.key'));f._read_assignment();f.stages.end('boot');f.stages.begin('mesh')
  for work in (f._run_engine, f._run_mesh, f._serve):
   f._spawn(work)
 def _read_assignment(f):
  aV = f.settings.path('/run/lamplighter/assignment.json')
  with contextlib.suppress(OSError, ValueError):
   f.assignment = Assignment.parse(json.loads(aV.read_text()), f.instance)
  aW = -15.0
  while f.assignment is None:
   if time.monotonic() - aW >= 15:
    f._post(f._message('hello', public_key=f.public_key));aW = time.monotonic()
   try:
    if (i := f.aws.get(f'nodes/{f.sender}/assignment.json')):
     Q = Assignment.parse(json.loads(i), f.instance);f.nebula.install(Q.nebula);write(aV, i.decode());f.assignment = Q;break
   except (OSError, ValueError) as n:
    log.warning('no assignment: %s', n)
   f._pause(0.5)
  for name, v in f.assignment.limits.items():
   if 0 < v < 86400:
    setattr(f.deadman, name, v)
 def _run_mesh(f):
  aE = 0
  while True:
   if f.nebula.installed() and (not f.nebula.alive()):
    with contextlib.suppress(OSError):
     f.nebula.start()
    f._pause(0.3);aE = 0 if f.nebula.alive() else aE + 1
    if aE >= 5 and f.stages.current() == 'mesh':
     raise Broken('mesh_timeout', 'nebula does not run: ' + last_lines(f.log('nebula', 4096)))
   f._pause(2 if f.nebula.alive() else 0.3)
 def _await_overlay(f):
  while True:
   with contextlib.suppress(OSError), socket.create_server((f.host, 0)):
    return
   f._pause(0.1)
 def _run_engine(f):
  assert f.assignment is not None;aF = Launch(f.settings, f.assignment, f.docker, f.aws, f.stages, f.host, f.engine, f._pause)
  try:
   aF.pull();f._await_overlay();aF.start();aF.watch()
  except Broken as aJ:
   f.fail(aJ.reason, aJ.detail, 'pull' if f.engine.state == 'pulling' else 'load')
 def _serve(f):
  f._await_overlay()
  with Server((f.host, f.settings.agent_port), f) as server:
   server.timeout = 0.2
   while not f._stopped.is_set():
    server.handle_request()
 def met(f):
  f.stages.end('mesh')
 @property
 def token(f):
  assert f.assignment is not None;return f.assignment.agent_token
 def _watch_spot(f):
  while True:
   with contextlib.suppress(OSError, ValueError, KeyError):
    if (text := f.metadata.get('spot/instance-action')) is not None:
     y = calendar.timegm(time.strptime(json.loads(text)['time'], '%Y-%m-%dT%H:%M:%SZ'));f.notice = {'kind': 'interruption', 'at': y, 'detail': text[:200]}
     if time.time() >= y - SPOT_MARGIN:
      f.ask_end('spot')
    elif f.notice is None and (text := f.metadata.get('events/recommendations/rebalance')) is not None:
     f.notice = {'kind': 'rebalance', 'at': None, 'detail': text[:200]}
   f._pause(2)
 def _follow_steps(f):
  S = f.settings.path('/run/lamplighter/steps');S.mkdir(parents=True, exist_ok=True)
  while True:
   for path in sorted(S.glob('*.json')):
    with contextlib.suppress(ValueError, TypeError, KeyError):
     i = json.loads(path.read_text());f.step(i['name'], i['state'], i['at'], i.get('detail', ''), i.get('reason', ''))
    path.unlink()
   f._pause(0.3)
 def step(f, name, state, y, detail='', reason=''):
  step = f.steps.setdefault(name, {'started_at': y, 'ended_at': None});log.info('step %s: %s %s', name, state, detail)
  if state == 'begin':
   f.stages.update(f.stages.current(), None, f'{name}: {detail}' if detail else name)
  elif state == 'end':
   step['ended_at'] = y
   if name == 'baked':
    f._baked()
  elif state == 'fail':
   f.fail(reason or 'provider_error', f'{name}: {detail}')
 def _baked(f):
  steps = {name: round(x['ended_at'] - x['started_at'], 1) for name, x in f.steps.items() if x['ended_at']};C = f._message('baked', steps=steps);f.aws.put(f'nodes/{f.sender}/logs/baked.json', json.dumps(C).encode());f.aws.send(C)
  write(f.settings.path('/run/lamplighter/baked'), '')
 def fail(f, reason, detail, j=''):
  if f.failure is None:
   j = j or f.stages.current();log.error('%s fails (%s): %s', j, reason, detail);f.failure = {'stage': j, 'reason': reason, 'detail': detail};f._post(f._message('stage', name=j, state='fail', progress=None, detail=detail, reason=reason))
   f.ask_end('failed')
 def ask_end(f, reason):
  f.deadman.end(reason);f._wake.set()
 def status(f):
  return {'version': VERSION, 'instance': f.instance, 'boot_id': f.boot_id, 'uptime': round(f._clock() - f.deadman.born, 1), 'stages': f.stages.listed(), 'steps': dict(f.steps), 'lease': {'remaining': round(f.deadman.remaining(), 1)}, 'notice': f.notice, 'engine': vars(f.engine), 'failure': f.failure, 'certificate': {'fingerprint': f.nebula.fingerprint()}, 'public_key': f.public_key}
 def log(f, name, Z):
  if name == 'engine':
   return f.docker.logs().encode()[-Z:].decode(errors='replace')
  return tail(f.settings.path(f'/var/log/lamplighter/{name}.log'), Z)
 def _tell(f, j, state):
  if state == 'progress':
   if f.stages.current() not in ('boot', 'mesh') or time.monotonic() - f._told < 3:
    return
   f._told = time.monotonic()
  f._post(f._message('stage', name=j.name, state=state, progress=j.progress, detail=j.detail))
 def _message(f, ar, **q):
  return {'version': VERSION, 'kind': ar, 'instance': f.instance, 'at': time.time(), **q}
 def _post(f, C):
  with contextlib.suppress(queue.Full):
   f._outbox.put_nowait(C)
 def _send(f):
  while True:
   C = f._outbox.get()
   while not f.instance:
    f._pause(0.2)
   for aA in range(10):
    try:
     f.aws.send(C | {'instance': f.instance});break
    except OSError as n:
     log.warning('not sent (%s): %s', C['kind'], n);f._pause(min(10, 0.5 * 2 ** aA))
 def _pause(f, v):
  if f._stopped.wait(v):
   raise SystemExit
 def _spawn(f, work):
  def keep():
   aH = 0.5
   while not f._stopped.wait(aH - 0.5):
    try:
     return work()
    except SystemExit:
     return None
    except Broken as aJ:
     return f.fail(aJ.reason, aJ.detail)
    except Exception:
     log.exception('a thread broke and is started again')
    aH = min(30, 2 * aH)
   return None
  if work.__name__ not in f._threads:
   f._threads.add(work.__name__);threading.Thread(target=keep, daemon=True).start()
def watchdog():
 ak = os.environ.get('NOTIFY_SOCKET')
 if ak:
  with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bB:
   bB.sendto(b'WATCHDOG=1', ak.replace('@', '\x00', 1))
CONFIG = Path('/etc/lamplighter/node.json')
def main(aO=None):
 K = list(sys.argv[1:] if aO is None else aO);h = json.loads(CONFIG.read_text());g = Settings.parse(h);al = Metadata(g.url('metadata', METADATA));T = Aws(g, al)
 try:
  match K:
   case ['run']:
    return _agent(g)
   case ['step', name, 'begin' | 'end' | 'fail' as state, *bE] if len(bE) <= 2:
    report(g, name, state, *bE)
   case ['get', name]:
    for ax in name.split('.'):
     h = h.get(ax) if isinstance(h, dict) else None
    sys.stdout.write(f"{('' if h is None else h)}\n")
   case ['attach', an]:
    T.attach(an, al.get('instance-id') or '')
   case ['bake']:
    bake(g, Docker(g, T))
   case _:
    sys.stderr.write('usage: agent.py run, step NAME begin/end/fail [DETAIL [REASON]], get NAME, attach VOLUME, or bake\n');return 2
 except (OSError, Broken) as n:
  sys.stderr.write(f'{n}\n');return 1
 return 0
def _agent(g):
 u = g.path('/var/log/lamplighter/agent.log');u.parent.mkdir(parents=True, exist_ok=True);logging.basicConfig(level=logging.INFO, format='%(asctime)s %(levelname)s %(message)s', filename=u);return Agent(g).run()
def report(g, name, state, detail='', reason=''):
 step = {'name': name, 'state': state, 'at': time.time(), 'detail': detail[-600:], 'reason': reason};write(g.path(f'/run/lamplighter/steps/{time.time_ns():020}.json'), json.dumps(step))
def _silent(bF, bG):
 pass
def bake(g, ab):
 for image in g.bake.get('images', ()):
  report(g, f'image {image}', 'begin');ab.pull(image, _silent);report(g, f'image {image}', 'end')
 for image, bz, *arguments in g.bake.get('weights', ()):
  name = f"weights {' '.join(arguments)}";report(g, name, 'begin');S = g.path('/var/lib/lamplighter/models');l = run(('docker', 'run', '--rm', '--volume', f'{S}:/models', '--entrypoint', bz, image, *arguments), 7200)
  if l.returncode != 0:
   raise Broken(judge(l.stdout, 'download_failed'), last_lines(l.stdout))
  report(g, name, 'end')
if __name__ == '__main__':
 sys.exit(main())
