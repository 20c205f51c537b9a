# Made by tools/pack_agent.py from src/lamplighter/node: read and change it there.
from __future__ import annotations;import base64, calendar, contextlib, hashlib, hmac, http.client, http.server, ipaddress, json, logging, os, queue, re, secrets, shutil, signal, socket, socketserver, subprocess, sys, threading, time
from collections.abc import Callable, Mapping, Sequence;from dataclasses import dataclass, field;from pathlib import Path;from typing import Any, Protocol;from urllib.parse import parse_qs, quote, urlencode, urlsplit;VERSION = 1
BODY_LIMIT = 1 << 20;LOG_LIMIT = 1 << 18
SIGNS = (('out_of_memory', 'out of memory|OutOfMemory|bad_alloc|cudaMalloc failed|No available memory|KV cache is needed|more system memory'), ('disk_full', '[Nn]o space left'), ('gated_model', '[Gg]ated ?[Rr]epo|Access to model|401 Client Error'), ('model_not_found', 'RepositoryNotFound|not a valid model|EntryNotFound|404 Client Error|file does not exist'), ('download_failed', 'MaxRetryError|ConnectionError|name resolution|no such host|dial tcp|timeout|connection reset'), ('model_corrupt', 'SafetensorError|HeaderTooLarge|digest mismatch|failed to load model'), ('engine_refused', 'error: (unrecognized|argument|invalid)|(unknown|invalid) argument'), ('engine_missing', 'No CUDA GPUs|NVIDIA driver|device driver|nvidia-container-cli|architecture'))
log = logging.getLogger('lamplighter.node')
class Broken(Exception):
 def __init__(f, reason, detail):
  super().__init__(detail);f.reason, f.detail = (reason, detail)
def judge(text, bf='engine_crashed'):
 return next((reason for reason, bB in SIGNS if re.search(bB, text)), bf)
def last_lines(text, ah=3):
 X = [af.strip() for af in text.splitlines() if af.strip()];return ' | '.join(X[-ah:])[-600:] or 'no output'
def boottime():
 return time.clock_gettime(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))
def write(path, q, mode=384):
 path.parent.mkdir(parents=True, exist_ok=True);aJ = path.with_name(f'.{path.name}.{os.getpid()}.{threading.get_ident()}');bg = os.open(aJ, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
 with os.fdopen(bg, 'w') as v:
  v.write(q)
 aJ.replace(path)
def tail(path, Y):
 try:
  with path.open('rb') as v:
   v.seek(max(0, v.seek(0, os.SEEK_END) - Y));return v.read(Y).decode(errors='replace')
 except OSError:
  return ''
def run(s, timeout, stdin=''):
 try:
  return subprocess.run(s, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace', timeout=timeout, check=False)
 except subprocess.TimeoutExpired as n:
  return subprocess.CompletedProcess(s, 124, str(n), '')
 except OSError as n:
  return subprocess.CompletedProcess(s, 127, str(n), '')
@dataclass(frozen=True)
class Settings:
 region: str;nodes_queue_url: str;bucket: str;node_role_id: str;boot_deadline: float;lease: float;drain: float;mode: str = 'node';agent_port: int = 7443;bake: Mapping[str, Any] = field(default_factory=dict)
 testing: Mapping[str, Any] = field(default_factory=dict)
 @classmethod
 def parse(al, h):
  if h.get('version') != VERSION:
   raise ValueError(f"node.json has version {h.get('version')!r}, this agent knows {VERSION}")
  return al(**{name: h[name] for name in al.__dataclass_fields__ if name in h})
 def path(f, bm):
  return Path(f.testing.get('root', '/')) / bm.lstrip('/')
 def url(f, o, bn):
  return str(f.testing.get(f'{o}_url', bn)).rstrip('/')
def x25519(bh, bi=9 .to_bytes(32, 'little')):
 p = 2 ** 255 - 19;k = int.from_bytes(bh, 'little') & ~7 & (1 << 255) - 1 | 1 << 254;aK = (int.from_bytes(bi, 'little') & (1 << 255) - 1) % p;K, L, T, U, ap = (1, 0, aK, 1, 0)
 for t in range(254, -1, -1):
  aO = k >> t & 1
  if ap ^ aO:
   K, T, L, U = (T, K, U, L)
  ap = aO;a, b, c, d = ((K + L) % p, (K - L) % p, (T + U) % p, (T - U) % p);aW, aX, aF, aY = (d * a % p, c * b % p, a * a % p, b * b % p);T, U, K, e = (pow(aW + aX, 2, p), aK * pow(aW - aX, 2, p) % p, aF * aY % p, (aF - aY) % p)
  L = e * (aF + 121665 * e) % p
 if ap:
  K, L = (T, U)
 return (K * pow(L, p - 2, p) % p).to_bytes(32, 'little')
def pem(aL, q):
 text = base64.b64encode(q).decode();X = '\n'.join((text[y:y + 64] for y in range(0, len(text), 64)));return f'-----BEGIN {aL}-----\n{X}\n-----END {aL}-----\n'
def unpem(text):
 j = re.search('-----BEGIN [A-Z0-9 ]+-----\\s([A-Za-z0-9+/=\\s]+)-----END', text)
 if j is None:
  raise ValueError('not PEM')
 return base64.b64decode(j[1])
def own_key(path):
 if not path.exists():
  write(path, pem('NEBULA X25519 PRIVATE KEY', secrets.token_bytes(32)))
 return pem('NEBULA X25519 PUBLIC KEY', x25519(unpem(path.read_text())))
METADATA = 'http://169.254.169.254'
def fetch(G, url, B, m=b'', timeout=5.0):
 u = urlsplit(url);aq = http.client.HTTPSConnection if u.scheme == 'https' else http.client.HTTPConnection;ar = aq(u.hostname or '', u.port, timeout=timeout)
 try:
  ar.request(G, u.path or '/', m or None, dict(B));M = ar.getresponse();return (M.status, M.read(4 * BODY_LIMIT))
 except http.client.HTTPException as n:
  raise OSError(f'{u.hostname}: {n!r}') from n
 finally:
  ar.close()
class Metadata:
 def __init__(f, A):
  f._z = A;f._P, f._w = ('', 0.0);f._r = (0.0, {})
 def get(f, path):
  if time.monotonic() > f._w:
   status, m = fetch('PUT', f'{f._z}/latest/api/token', {'X-aws-ec2-metadata-token-ttl-seconds': '3600'}, timeout=2)
   if status != 200:
    raise OSError(f'the metadata service answers {status}')
   f._P, f._w = (m.decode(), time.monotonic() + 3000)
  status, m = fetch('GET', f'{f._z}/latest/meta-data/{path}', {'X-aws-ec2-metadata-token': f._P}, timeout=2)
  if status == 404:
   return None
  if status != 200:
   f._w = 0.0;raise OSError(f'the metadata service answers {status}')
  return m.decode()
 def credentials(f):
  if time.monotonic() > f._r[0]:
   aZ = (f.get('iam/security-credentials/') or '').split('\n')[0];j = json.loads((f.get(f'iam/security-credentials/{aZ}') if aZ else None) or '{}')
   if 'AccessKeyId' not in j:
    raise OSError('the instance has no role')
   f._r = (time.monotonic() + 120, j)
  return f._r[1]
def sign(G, url, B, m, H, region, o, y):
 u = urlsplit(url);au = time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(y));aM = hashlib.sha256(m).hexdigest();Q = {name.lower(): C for name, C in B.items()} | {'host': u.netloc, 'x-amz-date': au}
 if H.get('Token'):
  Q['x-amz-security-token'] = H['Token']
 if o == 's3':
  Q['x-amz-content-sha256'] = aM
 ai = ';'.join(sorted(Q));X = ''.join((f'{name}:{Q[name]}\n' for name in sorted(Q)));bj = '\n'.join((G, u.path or '/', '', X, ai, aM));av = f'{au[:8]}/{region}/{o}/aws4_request';key = b'AWS4' + H['SecretAccessKey'].encode()
 for aw in av.split('/'):
  key = hmac.new(key, aw.encode(), hashlib.sha256).digest()
 text = f'AWS4-HMAC-SHA256\n{au}\n{av}\n{hashlib.sha256(bj.encode()).hexdigest()}';bk = hmac.new(key, text.encode(), hashlib.sha256).hexdigest();C = f"AWS4-HMAC-SHA256 Credential={H['AccessKeyId']}/{av}, SignedHeaders={ai}, Signature={bk}"
 return Q | {'authorization': C}
class Aws:
 def __init__(f, g, ak):
  f._b, f._W = (g, ak);f._u = 'amazonaws.com' + ('.cn' if g.region.startswith('cn-') else '')
 def send(f, D, timeout=5.0):
  u = urlsplit(f._b.nodes_queue_url);A = f._b.url('sqs', f'{u.scheme}://{u.netloc}');N = {'Action': 'SendMessage', 'Version': '2012-11-05', 'MessageBody': json.dumps(D)};f._M('sqs', f'{A}{u.path}', N, timeout)
 def get(f, key):
  status, m = f._C('GET', f._X(key), {}, b'', 's3')
  if status in (403, 404):
   return None
  if status != 200:
   raise OSError(f's3 answers {status}')
  return m
 def put(f, key, m, timeout=5.0):
  status, M = f._C('PUT', f._X(key), {'content-type': 'text/plain; charset=utf-8'}, m, 's3', timeout)
  if status != 200:
   raise OSError(f's3 answers {status}: {M[:200]!r}')
 def terminate(f, ab):
  N = {'InstanceId': ab, 'ShouldDecrementDesiredCapacity': 'true'};bo = {'Action': 'TerminateInstanceInAutoScalingGroup', 'Version': '2011-01-01'};f._M('autoscaling', f._F('autoscaling'), bo | N)
 def attach(f, am, ab):
  N = {'Action': 'AttachVolume', 'Version': '2016-11-15', 'VolumeId': am, 'InstanceId': ab, 'Device': '/dev/sdf'};f._M('ec2', f._F('ec2'), N)
 def secret(f, name):
  j = f._U('secretsmanager', f._F('secretsmanager'), 'secretsmanager.GetSecretValue', {'SecretId': name});return str(j['SecretString'])
 def registry_password(f):
  A = f._b.url('ecr', f'https://api.ecr.{f._b.region}.{f._u}');j = f._U('ecr', A, 'AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken', {})
  return base64.b64decode(j['authorizationData'][0]['authorizationToken']).decode().partition(':')[2]
 def _F(f, o):
  return f._b.url(o, f'https://{o}.{f._b.region}.{f._u}')
 def _X(f, key):
  bucket = f._b.bucket;A = f._b.url('s3', '');A = f'{A}/{bucket}' if A else f'https://{bucket}.s3.{f._b.region}.{f._u}';return f"{A}/{quote(key, safe='/-_.~')}"
 def _C(f, G, url, B, m, o, timeout=5.0):
  H = f._W.credentials();return fetch(G, url, sign(G, url, B, m, H, f._b.region, o, time.time()), m, timeout)
 def _M(f, o, url, N, timeout=5.0):
  f._n(o, url, {'content-type': 'application/x-www-form-urlencoded; charset=utf-8'}, urlencode(N), timeout)
 def _U(f, o, url, target, bp):
  B = {'content-type': 'application/x-amz-json-1.1', 'x-amz-target': target};return json.loads(f._n(o, url, B, json.dumps(bp)))
 def _n(f, o, url, B, m, timeout=5.0):
  status, M = f._C('POST', url, B, m.encode(), o, timeout)
  if status != 200:
   raise OSError(f'{o} answers {status}: {M[:400]!r}')
  return M
class Deadman:
 def __init__(f, path, g, *, clock=boottime, bq=time.time, boot_id=''):
  f.boot_deadline, f.lease, f.drain = (g.boot_deadline, g.lease, g.drain);f.ending = None;f._m, f._h, f._R, f._B = (path, clock, bq, boot_id);f._j = threading.Lock();f.born = clock();f._g = None;f._ao();f._N()
 def _ao(f):
  O = f._h()
  try:
   E = json.loads(f._m.read_text());ba = 0.0 if E['boot'] == f._B else O - E['clock'] - max(0.0, f._R() - E['wall']);f.born = min(O, E['born'] + ba);f._g = None if E['until'] is None else min(O + f.lease, E['until'] + ba)
   f.ending = E['ending']
  except FileNotFoundError:
   return
  except (OSError, ValueError, KeyError, TypeError) as n:
   log.warning("the dead-man's file is not readable (%r): one lease is left", n);f._g = O + f.lease
 def _N(f):
  E = {'boot': f._B, 'born': f.born, 'until': f._g, 'ending': f.ending}
  try:
   write(f._m, json.dumps(E | {'clock': f._h(), 'wall': f._R()}))
  except OSError as n:
   log.warning("the dead-man's file cannot be written: %s", n)
 def renew(f, w):
  with f._j:
   bc = max(0.0, min(w, f.lease));f._g = f._h() + bc;f._N();return bc
 def end(f, reason):
  f.ending = f.ending or reason
 def keep(f):
  with f._j:
   f._N()
 def remaining(f):
  br = f.born + f.boot_deadline if f._g is None else f._g;return max(0.0, br - f._h())
 def due(f):
  O = f._h()
  if f.ending:
   return f.ending
  if f._g is None:
   return 'boot_deadline' if O >= f.born + f.boot_deadline else None
  return 'lease' if O >= f._g + f.drain else None
def watchdog():
 aj = os.environ.get('NOTIFY_SOCKET')
 if aj:
  with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bA:
   bA.sendto(b'WATCHDOG=1', aj.replace('@', '\x00', 1))
STAGES = ('boot', 'mesh', 'cluster', 'pull', 'load')
@dataclass
class Stage:
 name: str;wanted: bool = False;finished: bool = False;started_at: float | None = None;ended_at: float | None = None;progress: float | None = None;detail: str | None = None
class Stages:
 def __init__(f, path, ac):
  f._m, f._v = (path, ac);f._j = threading.RLock();f._e = {name: Stage(name) for name in STAGES}
  with contextlib.suppress(OSError, ValueError, TypeError):
   f._e |= {x['name']: Stage(**x) for x in json.loads(path.read_text()) if x['name'] in STAGES}
 def skip(f, name):
  f._e.pop(name, None)
 def begin(f, name):
  f._D(name, wanted=True)
 def end(f, name):
  f._D(name, wanted=True, finished=True)
 def update(f, name, progress, detail):
  f._D(name, progress=progress, detail=detail);l = f._e[name]
  if l.started_at and (not l.ended_at):
   f._v(l, 'progress')
 def current(f):
  return next((name for name in f._e if f._e[name].ended_at is None), STAGES[-1])
 def listed(f):
  H = ('name', 'started_at', 'ended_at', 'progress', 'detail')
  with f._j:
   return [{key: getattr(x, key) for key in H} for x in f._e.values() if x.started_at]
 def _D(f, name, **bs):
  ax = []
  with f._j:
   for key, C in bs.items():
    setattr(f._e[name], key, C)
   for l in f._e.values():
    if l.wanted and l.started_at is None:
     l.started_at = time.time();ax.append((l, 'begin'))
    if l.finished and l.ended_at is None:
     l.ended_at = time.time();ax.append((l, 'end'))
    if l.ended_at is None:
     break
   with contextlib.suppress(OSError):
    write(f._m, json.dumps([vars(x) for x in f._e.values()]))
  for l, state in ax:
   f._v(l, state)
NEBULA_FILES = ('config.yml', 'ca.crt', 'node.crt')
@dataclass(frozen=True)
class Engine:
 image: str;port: int;arguments: tuple[str, ...] = ();environment: Mapping[str, str] = field(default_factory=dict);secrets: Mapping[str, str] = field(default_factory=dict);key: str = field(default='', repr=False);weights: str = '/models'
 health: str = '/health';prepare: tuple[str, ...] = ()
@dataclass(frozen=True)
class Cluster:
 script: str;files: Mapping[str, str]
@dataclass(frozen=True)
class Assignment:
 replica: str;model: str;overlay: str;nebula: Mapping[str, str];agent_token: str = field(repr=False);engine: Engine | None;cluster: Cluster | None = None;hub_token_secret: str | None = None
 limits: Mapping[str, float] = field(default_factory=dict)
 @classmethod
 def parse(al, h, ab):
  try:
   if h['version'] != VERSION or h['instance'] != ab:
    raise ValueError(f"it is of version {h['version']!r} for {h['instance']!r}")
   engine, cluster = (None, None)
   if (z := h.get('cluster')):
    cluster = Cluster(z['script'], z['files']);''.join((cluster.script, *cluster.files, *cluster.files.values()))
   else:
    engine = engine_of(h['engine'])
   if len(h['agent_token']) < 16:
    raise ValueError('its token is of no use')
   limits = {name: float(h[name]) for name in ('lease', 'boot_deadline', 'drain') if name in h};overlay = str(ipaddress.IPv4Address(h['overlay']));nebula = nebula_files(h['nebula'])
   token, secret = (str(h['agent_token']), h.get('hub_token_secret'));return al(str(h['replica']), str(h['model']), overlay, nebula, token, engine, cluster, secret, limits)
  except (KeyError, TypeError, AttributeError) as n:
   raise ValueError(repr(n)) from n
def engine_of(z):
 bl = {name: z[name] for name in Engine.__dataclass_fields__ if name in z};engine = Engine(**bl | {name: tuple(map(str, z.get(name, ()))) for name in ('arguments', 'prepare')})
 if not 0 < engine.port < 65536 or not str(engine.image).strip() or engine.image.startswith('-'):
  raise ValueError('its port or image is impossible')
 if '\n' in ''.join((f'{name}{C}' for name, C in engine.environment.items())) + engine.key:
  raise ValueError('its environment or key is of no use')
 return engine
def nebula_files(files):
 if not isinstance(files, dict) or not files or (not set(files) <= set(NEBULA_FILES)):
  raise ValueError(f'files of Nebula are {NEBULA_FILES}')
 if not all((isinstance(text, str) and 0 < len(text) < BODY_LIMIT for text in files.values())):
  raise ValueError('a file of Nebula is a text')
 return files
class Docker:
 name = 'lamplighter-engine'
 def __init__(f, g, S, ay=3.0):
  f._b, f._q, f._a = (g, S, ay)
 def ready(f):
  return f._b.path('/run/lamplighter/runtime.ready').exists()
 def pull(f, image, ac):
  if run(('docker', 'image', 'inspect', image), 30).returncode == 0:
   return
  aP = re.match('(\\d{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(\\.cn)?)/', image);text = ''
  for az in range(3):
   time.sleep(az * f._a)
   if aP:
    try:
     bC = f'docker login --username AWS --password-stdin {aP[1]}';run(bC.split(), 30, f._q.registry_password())
    except OSError as n:
     log.warning('no password for the registry: %s', n)
   i, text = f._al(image, ac)
   if i:
    return
   if re.search('manifest unknown|not found|denied|unauthorized|invalid reference', text):
    raise Broken('bad_image', last_lines(text, 1))
  raise Broken(judge(text, 'download_failed'), last_lines(text, 1))
 def _al(f, image, ac):
  bt = {'Download complete': 0.5, 'Extracting': 0.6, 'Pull complete': 1.0, 'Already exists': 1.0};V = {};text = ''
  try:
   ag = subprocess.Popen(('docker', 'pull', image), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  except OSError as n:
   raise Broken('engine_missing', f'docker: {n.strerror}') from n
  with ag:
   for af in ag.stdout or ():
    text = (text + af)[-4000:]
    if (j := re.match('([0-9a-f]{12}): (\\w+(?: \\w+)*)', af)):
     V[j[1]] = max(V.get(j[1], 0.0), bt.get(j[2], 0.0));i = sum((aH == 1 for aH in V.values()));ac(sum(V.values()) / len(V), f'image: {i} of {len(V)} layers')
  return (ag.returncode == 0, text)
 def start(f, P, host, environment, weights):
  engine = P.engine;run(('docker', 'rm', '--force', f.name), 30);v = f._b.path('/run/lamplighter/engine.env');write(v, ''.join((f'{name}={C}\n' for name, C in environment.items())))
  bu = f'--detach --name {f.name} --gpus all --shm-size 8g --restart no --pull never --security-opt no-new-privileges --log-driver local --log-opt max-size=20m --log-opt max-file=2 --publish {host}:{engine.port}:{engine.port} --env-file {v}'
  am = ('--volume', f'{weights}:{engine.weights}');s = ('docker', 'run', *bu.split(), *am, engine.image, *engine.arguments);i = run(s, 120);v.unlink(missing_ok=True)
  if i.returncode != 0:
   raise Broken(judge(i.stdout, 'engine_missing'), last_lines(i.stdout, 1))
 def state(f):
  i = run(('docker', 'inspect', '--format', '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}', f.name), 20);an = i.stdout.split()
  if i.returncode != 0 or len(an) != 3:
   return ('absent' if 'o such' in i.stdout else 'unknown', None)
  if an[0] in ('exited', 'dead'):
   return ('exited', 137 if an[2] == 'true' else int(an[1]))
  return ('running', None)
 def execute(f, s, timeout):
  return run(('docker', 'exec', f.name, *s), timeout)
 def logs(f):
  return run(('docker', 'logs', '--tail', '2000', f.name), 5).stdout
class Nebula:
 def __init__(f, g):
  f._k = None;f._s = g.path('/etc/nebula');f._L = g.path('/run/lamplighter/nebula.pid');f._J = g.path('/var/log/lamplighter/nebula.log')
 def install(f, files):
  for name, text in files.items():
   write(f._s / name, text)
  f._k = None
  if (J := f._Y()):
   os.kill(J, signal.SIGHUP)
 def installed(f):
  return shutil.which('nebula') is not None
 def start(f):
  f._J.parent.mkdir(parents=True, exist_ok=True)
  with f._J.open('ab') as bd:
   s = ('nebula', '-config', str(f._s / 'config.yml'));ag = subprocess.Popen(s, stdin=subprocess.DEVNULL, stdout=bd, stderr=bd, start_new_session=True)
  write(f._L, str(ag.pid))
 def alive(f):
  return f._Y() > 0
 def fingerprint(f):
  if f._k is None:
   i = run(('nebula-cert', 'print', '-json', '-path', str(f._s / 'node.crt')), 5);j = re.search('"fingerprint": *"([0-9a-f]{64})"', i.stdout);f._k = j[1] if j else None
  return f._k
 def _Y(f):
  try:
   J = int(f._L.read_text())
   if b'nebula' not in Path(f'/proc/{J}/cmdline').read_bytes():
    return _an(J)
  except (OSError, ValueError):
   return 0
  return J
def _an(J):
 os.waitpid(J, os.WNOHANG);return 0
QUIET = 4
@dataclass
class EngineState:
 state: str = 'waiting';detail: str | None = None;exit: int | None = None
class Launch:
 def __init__(f, g, P, Z, S, bv, host, bw, ay):
  f._b, f._y, f._c = (g, P, P.engine);f._d, f._q, f._i, f._H, f._t, f._a = (Z, S, bv, host, bw, ay);f._x = g.path('/var/lib/lamplighter/models');wanted = (f._c.image, f._c.arguments, f._c.prepare)
  f._E = f._x / f'.lamplighter-{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]}'
 def pull(f):
  while not f._d.ready():
   f._a(0.2)
  f._i.begin('pull');f._o('pulling');f._d.pull(f._c.image, lambda aH, detail: f._i.update('pull', aH, detail))
 def start(f):
  aQ = f._b.path('/run/lamplighter/engine.started')
  if not aQ.exists() and f._d.state()[0] != 'running':
   f._d.start(f._y, f._H, f._ag(), f._x);write(aQ, '')
 def watch(f):
  f._o('starting');f._ad()
  with contextlib.suppress(OSError):
   write(f._E, '', 420)
  f._i.end('pull');f._i.end('load');f._o('ready');state, I = f._d.state()
  while state not in ('exited', 'absent'):
   f._a(2);state, I = f._d.state()
  f._o('exited', last_lines(f._d.logs()), I)
 def _ag(f):
  aA = {'key': f._c.key}
  if (name := f._y.hub_token_secret) and 'hub_token' in f._c.secrets.values():
   try:
    aA['hub_token'] = f._q.secret(name).strip()
   except (OSError, KeyError, ValueError) as n:
    log.warning('no token for the hub: %s', n)
  bx = {name: aA[F] for name, F in f._c.secrets.items() if aA.get(F)};return {**f._c.environment, **bx}
 def _ad(f):
  ao = QUIET if f._E.exists() else None;W = None
  while True:
   f._af();be = downloading(f._x)
   if be is not None:
    ao = 0;f._i.update('pull', None, f'weights: {be / 1000000000.0:.1f} GB')
   elif ao is not None:
    ao += 1
    if ao > QUIET:
     f._i.end('pull');f._i.begin('load')
   if W is None and f._ac():
    if not f._c.prepare:
     return
    W = f._ak()
   if W:
    if W[0].returncode == 0:
     return
    raise Broken(judge(W[0].stdout, 'download_failed'), last_lines(W[0].stdout))
   f._a(0.5)
 def _af(f):
  state, I = f._d.state()
  if state in ('exited', 'absent'):
   text = f._d.logs();f._o('exited', last_lines(text), I);reason = 'out_of_memory' if I == 137 else judge(text);raise Broken(reason, f'the engine ended with status {I}: {last_lines(text)}')
 def _ak(f):
  i = []
  def work():
   i.append(f._d.execute(f._c.prepare, 86400))
  threading.Thread(target=work, daemon=True, name='prepare').start();return i
 def _ac(f):
  try:
   return fetch('GET', f'http://{f._H}:{f._c.port}{f._c.health}', {}, timeout=2)[0] == 200
  except OSError:
   return False
 def _o(f, state, detail=None, I=None):
  f._t.state, f._t.detail, f._t.exit = (state, detail, I)
def downloading(R):
 aR, aB = (0.0, False)
 for by, _, ai in os.walk(R):
  for name in ai:
   aB = aB or name.endswith(('.incomplete', '.downloadInProgress')) or '-partial' in name
   with contextlib.suppress(OSError):
    aR += (Path(by) / name).lstat().st_blocks * 512
 return aR if aB else None
LOGS = ('bootstrap', 'cluster', 'engine', 'nebula', 'agent');_OK: dict[str, Any] = {'ok': True}
class Server(http.server.ThreadingHTTPServer):
 daemon_threads = True;request_queue_size = 16
 def __init__(f, aj, r):
  super().__init__(aj, Handler);f.agent = r;f._G = threading.Semaphore(16)
 def server_bind(f):
  socketserver.TCPServer.server_bind(f)
 def process_request(f, ad, ae):
  if f._G.acquire(blocking=False):
   super().process_request(ad, ae)
  else:
   f.shutdown_request(ad)
 def process_request_thread(f, ad, ae):
  try:
   super().process_request_thread(ad, ae)
  finally:
   f._G.release()
 def handle_error(f, ad, ae):
  log.debug('a request of %s broke', ae, exc_info=True)
class Handler(http.server.BaseHTTPRequestHandler):
 server: Server;timeout = 5;server_version, sys_version = ('lamplighter-agent', '')
 def do_GET(f):
  f._T('GET')
 def do_POST(f):
  f._T('POST')
 def _T(f, G):
  url = urlsplit(f.path)
  try:
   if url.path == '/health':
    status, q = (200, _OK)
   elif f._ab():
    status, q = f._ap(f'{G} {url.path}', parse_qs(url.query))
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
 def _ap(f, F, aS):
  r = f.server.agent
  if F == 'GET /status':
   return (200, r.status())
  if F == 'GET /logs':
   name, ah = (aS['name'][0], int(aS.get('bytes', ['65536'])[0]))
   if name not in LOGS or ah < 1:
    raise ValueError(f'name is one of {LOGS}')
   return (200, r.log(name, min(ah, BODY_LIMIT)))
  if F == 'GET /kubeconfig':
   return (200, r.kubeconfig())
  if F == 'POST /lease':
   w = f._A()['seconds']
   if type(w) not in (int, float) or not 0 < w < 1000000.0:
    raise ValueError('seconds is a number above 0')
   if r.deadman.ending:
    return (409, {'error': f'ending: {r.deadman.ending}'})
   return (200, {'remaining': r.deadman.renew(w)})
  if F == 'POST /nebula':
   r.nebula.install(nebula_files(f._A()['files']));return (200, {'fingerprint': r.nebula.fingerprint()})
  if F == 'POST /end':
   log.warning('asked to end: %.200r', f._A().get('reason'));return (202, _OK)
  return (404, {'error': 'not found'})
 def _ab(f):
  r = f.server.agent;z = (f.headers.get('Authorization') or '').encode('utf-8', 'surrogateescape')
  if not hmac.compare_digest(z, f'Bearer {r.token}'.encode()):
   return False
  r.met();return True
 def _A(f):
  aT = int(f.headers.get('Content-Length', 0))
  if not 0 <= aT <= BODY_LIMIT:
   raise ValueError('the body is too large')
  m = json.loads(f.rfile.read(aT) or b'{}')
  if not isinstance(m, dict):
   raise TypeError('the body is not an object')
  return m
 def log_message(f, format, *bG):
  pass
SPOT_MARGIN = 20.0;FAREWELL, TERMINATE = (10.0, 15.0)
class Agent:
 def __init__(f, g, *, Z=None, nebula=None, clock=boottime):
  f.settings = g;f.metadata = Metadata(g.url('metadata', METADATA));f.aws = Aws(g, f.metadata);f.docker = Z or Docker(g, f.aws);f.nebula = nebula or Nebula(g);f.boot_id = tail(Path('/proc/sys/kernel/random/boot_id'), 64).strip()
  f.deadman = Deadman(g.path('/var/lib/lamplighter/deadman.json'), g, clock=clock, boot_id=f.boot_id);f.instance, f.public_key = ('', '');f.assignment = None;f.engine = EngineState();f.notice = None;f.failure = None;f.steps = {}
  f._h = clock;f._K = queue.Queue(256);f._Q = 0.0;f._O = set[str]();f._p, f._f = (threading.Event(), threading.Event());f.stages = Stages(g.path('/run/lamplighter/stages.json'), f._v)
 def run(f):
  for work in (f._ai, f._at, f._aj, f._ax):
   f._Z(work)
  while not f._f.is_set():
   if (reason := f.deadman.due()):
    return f.end(reason)
   watchdog();f._p.wait(1.0);f._p.clear()
  return 0
 def stop(f):
  f._f.set();f._p.set()
 def end(f, reason):
  f.deadman.end(reason);f._V(FAREWELL, lambda: f._ah(reason));aC = f.settings.mode == 'node' and f._V(TERMINATE, f._aw);s = f.settings.testing.get('shutdown', ()) if f.settings.testing else ('shutdown', '-h', 'now')
  aC = bool(s) and run(s, 5).returncode == 0 or aC;f._f.set();return 0 if aC else 1
 def _V(f, w, work):
  i = threading.Event()
  def whole():
   work();i.set()
  try:
   threading.Thread(target=whole, daemon=True).start()
  except RuntimeError:
   return False
  return i.wait(w)
 def _ah(f, reason):
  log.warning('the node ends: %s', reason);f.deadman.keep();detail = f.failure['detail'] if f.failure else None
  with contextlib.suppress(OSError, ValueError, KeyError):
   f._I();f.aws.send(f._l('end', reason=reason, detail=detail, failure=f.failure), timeout=3)
   for name in LOGS:
    if (text := f.log(name, LOG_LIMIT)):
     f.aws.put(f'nodes/{f.sender}/logs/{name}.log', text.encode(), timeout=3)
 def _aw(f):
  while not f._f.is_set():
   try:
    f._I();f.aws.terminate(f.instance);return
   except (OSError, ValueError, KeyError) as n:
    log.warning('AWS does not end this instance: %s', n)
   f._f.wait(1)
 @property
 def sender(f):
  return f'{f.settings.node_role_id}:{f.instance}'
 def _I(f):
  f.instance = f.instance or f.metadata.get('instance-id') or ''
 @property
 def host(f):
  return str(f.settings.testing.get('agent_host', f.assignment.overlay))
 def _aj(f):
  f.stages.begin('boot')
  while not f.instance:
   try:
    f._I()
   except OSError as n:
    log.warning('who am I? %s', n);f._a(1)
  if f.settings.mode == 'bake':
   return
  f.public_key = own_key(f.settings.path('/etc/nebula/node.key'));f._am();f.stages.end('boot');f.stages.begin('mesh')
  if f.assignment and f.assignment.engine:
   f.stages.skip('cluster')
  for work in (f._ar, f._as, f._au):
   f._Z(work)
 def _am(f):
  aU = f.settings.path('/run/lamplighter/assignment.json')
  with contextlib.suppress(OSError, ValueError):
   f.assignment = Assignment.parse(json.loads(aU.read_text()), f.instance)
  aV = -15.0
  while f.assignment is None:
   if time.monotonic() - aV >= 15:
    f._n(f._l('hello', public_key=f.public_key));aV = time.monotonic()
   try:
    if (j := f.aws.get(f'nodes/{f.sender}/assignment.json')):
     P = Assignment.parse(json.loads(j), f.instance);f.nebula.install(P.nebula);write(aU, j.decode());f.assignment = P;break
   except (OSError, ValueError) as n:
    log.warning('no assignment: %s', n)
   f._a(0.5)
  for name, w in f.assignment.limits.items():
   if 0 < w < 86400:
    setattr(f.deadman, name, w)
 def _as(f):
  aD = 0
  while True:
   if f.nebula.installed() and (not f.nebula.alive()):
    with contextlib.suppress(OSError):
     f.nebula.start()
    f._a(0.3);aD = 0 if f.nebula.alive() else aD + 1
    if aD >= 5 and f.stages.current() == 'mesh':
     raise Broken('mesh_timeout', 'nebula does not run: ' + last_lines(f.log('nebula', 4096)))
   f._a(2 if f.nebula.alive() else 0.3)
 def _S(f):
  while True:
   with contextlib.suppress(OSError), socket.create_server((f.host, 0)):
    return
   f._a(0.1)
 def _ar(f):
  if (cluster := f.assignment.cluster):
   return f._aq(cluster)
  aE = Launch(f.settings, f.assignment, f.docker, f.aws, f.stages, f.host, f.engine, f._a)
  try:
   aE.pull();f._S();aE.start();aE.watch()
  except Broken as aI:
   f.fail(aI.reason, aI.detail, 'pull' if f.engine.state == 'pulling' else 'load')
 def _aq(f, cluster):
  while not f.docker.ready():
   f._a(0.2)
  f.stages.begin('cluster');f.engine.state = 'starting'
  for name, text in cluster.files.items():
   write(f.settings.path(name), text)
  script = f.settings.path('/run/lamplighter/cluster.sh');write(script, cluster.script);i = run(('flock', f'{script}.lock', 'bash', str(script)), 86400)
  if i.returncode != 0:
   text = f.log('cluster', 4096) + i.stdout;f.fail(judge(text, 'provider_error'), last_lines(text), 'cluster');return
  f.stages.end('cluster');f.engine.state = 'ready'
 def kubeconfig(f):
  text = f.settings.path('/etc/rancher/k3s/k3s.yaml').read_text();return text.replace('127.0.0.1', f.host)
 def _au(f):
  f._S()
  with Server((f.host, f.settings.agent_port), f) as server:
   server.timeout = 0.2
   while not f._f.is_set():
    server.handle_request()
 def met(f):
  f.stages.end('mesh')
 @property
 def token(f):
  return f.assignment.agent_token
 def _ax(f):
  while True:
   with contextlib.suppress(OSError, ValueError, KeyError):
    if (text := f.metadata.get('spot/instance-action')) is not None:
     y = calendar.timegm(time.strptime(json.loads(text)['time'], '%Y-%m-%dT%H:%M:%SZ'));f.notice = {'kind': 'interruption', 'at': y, 'detail': text[:200]}
     if time.time() >= y - SPOT_MARGIN:
      f.ask_end('spot')
    elif f.notice is None and (text := f.metadata.get('events/recommendations/rebalance')) is not None:
     f.notice = {'kind': 'rebalance', 'at': None, 'detail': text[:200]}
   f._a(2)
 def _ai(f):
  R = f.settings.path('/run/lamplighter/steps');R.mkdir(parents=True, exist_ok=True)
  while True:
   for path in sorted(R.glob('*.json')):
    with contextlib.suppress(ValueError, TypeError, KeyError):
     j = json.loads(path.read_text());f.step(j['name'], j['state'], j['at'], j.get('detail', ''), j.get('reason', ''))
    path.unlink()
   f._a(0.3)
 def step(f, name, state, y, detail='', reason=''):
  step = f.steps.setdefault(name, {'started_at': y, 'ended_at': None});log.info('step %s: %s %s', name, state, detail)
  if state == 'begin':
   f.stages.update(f.stages.current(), None, f'{name}: {detail}' if detail else name)
  elif state == 'end':
   step['ended_at'] = y
   if name == 'baked':
    f._ae()
  elif state == 'fail':
   f.fail(reason or 'provider_error', f'{name}: {detail}')
 def _ae(f):
  steps = {name: round(x['ended_at'] - x['started_at'], 1) for name, x in f.steps.items() if x['ended_at']};D = f._l('baked', steps=steps);f.aws.put(f'nodes/{f.sender}/logs/baked.json', json.dumps(D).encode());f.aws.send(D)
  write(f.settings.path('/run/lamplighter/baked'), '')
 def fail(f, reason, detail, l=''):
  if f.failure is None:
   l = l or f.stages.current();log.error('%s fails (%s): %s', l, reason, detail);f.failure = {'stage': l, 'reason': reason, 'detail': detail};f._n(f._l('stage', name=l, state='fail', progress=None, detail=detail, reason=reason))
   f.ask_end('failed')
 def ask_end(f, reason):
  f.deadman.end(reason);f._p.set()
 def status(f):
  return {'version': VERSION, 'instance': f.instance, 'boot_id': f.boot_id, 'uptime': round(f._h() - f.deadman.born, 1), 'stages': f.stages.listed(), 'steps': dict(f.steps), 'lease': {'remaining': round(f.deadman.remaining(), 1)}, 'notice': f.notice, 'engine': vars(f.engine), 'failure': f.failure, 'certificate': {'fingerprint': f.nebula.fingerprint()}, 'public_key': f.public_key}
 def log(f, name, Y):
  if name == 'engine' and (not (f.assignment and f.assignment.cluster)):
   return f.docker.logs().encode()[-Y:].decode(errors='replace')
  return tail(f.settings.path(f'/var/log/lamplighter/{name}.log'), Y)
 def _v(f, l, state):
  if state == 'progress':
   if f.stages.current() not in ('boot', 'mesh') or time.monotonic() - f._Q < 3:
    return
   f._Q = time.monotonic()
  f._n(f._l('stage', name=l.name, state=state, progress=l.progress, detail=l.detail))
 def _l(f, aq, **q):
  return {'version': VERSION, 'kind': aq, 'instance': f.instance, 'at': time.time(), **q}
 def _n(f, D):
  with contextlib.suppress(queue.Full):
   f._K.put_nowait(D)
 def _at(f):
  while True:
   D = f._K.get()
   while not f.instance:
    f._a(0.2)
   for az in range(10):
    try:
     f.aws.send(D | {'instance': f.instance});break
    except OSError as n:
     log.warning('not sent (%s): %s', D['kind'], n);f._a(min(10, 0.5 * 2 ** az))
 def _a(f, w):
  if f._f.wait(w):
   raise SystemExit
 def _Z(f, work):
  def keep():
   aG = 0.5
   while not f._f.wait(aG - 0.5):
    try:
     return work()
    except SystemExit:
     return None
    except Broken as aI:
     return f.fail(aI.reason, aI.detail)
    except Exception:
     log.exception('a thread broke and is started again')
    aG = min(30, 2 * aG)
   return None
  if work.__name__ not in f._O:
   f._O.add(work.__name__);threading.Thread(target=keep, daemon=True).start()
CONFIG = Path('/etc/lamplighter/node.json')
def main(aN=None):
 z = list(sys.argv[1:] if aN is None else aN);h = json.loads(CONFIG.read_text());g = Settings.parse(h);ak = Metadata(g.url('metadata', METADATA));S = Aws(g, ak)
 try:
  match z:
   case ['run']:
    return _aa(g)
   case ['step', name, 'begin' | 'end' | 'fail' as state, *bD] if len(bD) <= 2:
    report(g, name, state, *bD)
   case ['get', name]:
    for aw in name.split('.'):
     h = h.get(aw) if isinstance(h, dict) else None
    sys.stdout.write(f"{('' if h is None else h)}\n")
   case ['attach', am]:
    S.attach(am, ak.get('instance-id') or '')
   case ['bake']:
    bake(g, Docker(g, S))
   case _:
    sys.stderr.write('usage: agent.py run, step NAME begin/end/fail [DETAIL [REASON]], get NAME, attach VOLUME, or bake\n');return 2
 except (OSError, Broken) as n:
  sys.stderr.write(f'{n}\n');return 1
 return 0
def _aa(g):
 v = g.path('/var/log/lamplighter/agent.log');v.parent.mkdir(parents=True, exist_ok=True);logging.basicConfig(level=logging.INFO, format='%(asctime)s %(levelname)s %(message)s', filename=v);return Agent(g).run()
def report(g, name, state, detail='', reason=''):
 step = {'name': name, 'state': state, 'at': time.time(), 'detail': detail[-600:], 'reason': reason};write(g.path(f'/run/lamplighter/steps/{time.time_ns():020}.json'), json.dumps(step))
def _av(bE, bF):
 pass
def bake(g, Z):
 for image in g.bake.get('images', ()):
  report(g, f'image {image}', 'begin');Z.pull(image, _av);report(g, f'image {image}', 'end')
 for image, bz, *arguments in g.bake.get('weights', ()):
  name = f"weights {' '.join(arguments)}";report(g, name, 'begin');R = g.path('/var/lib/lamplighter/models');i = run(('docker', 'run', '--rm', '--volume', f'{R}:/models', '--entrypoint', bz, image, *arguments), 7200)
  if i.returncode != 0:
   raise Broken(judge(i.stdout, 'download_failed'), last_lines(i.stdout))
  report(g, name, 'end')
if __name__ == '__main__':
 sys.exit(main())
