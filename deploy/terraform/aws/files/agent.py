# Made by tools/pack_agent.py from src/lamplighter/node: read and change it there.
from __future__ import annotations
import base64, calendar, contextlib, hashlib, hmac, http.client, http.server, ipaddress, json, logging, os, queue, re, secrets, shutil, signal, socket, subprocess, sys, threading, time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, quote, urlencode, urlsplit
VERSION = 1
BODY_LIMIT = 1 << 20
LOG_LIMIT = 1 << 18
SIGNS = (('out_of_memory', 'out of memory|OutOfMemory|bad_alloc|cudaMalloc failed|No available memory|KV cache is needed|more system memory'), ('disk_full', '[Nn]o space left'), ('gated_model', '[Gg]ated ?[Rr]epo|Access to model|401 Client Error'), ('model_not_found', 'RepositoryNotFound|not a valid model|EntryNotFound|404 Client Error|file does not exist'), ('download_failed', 'MaxRetryError|ConnectionError|name resolution|no such host|dial tcp|timeout|connection reset'), ('model_corrupt', 'SafetensorError|HeaderTooLarge|digest mismatch|failed to load model'), ('engine_refused', 'error: (unrecognized|argument|invalid)|(unknown|invalid) argument'), ('engine_missing', 'No CUDA GPUs|NVIDIA driver|device driver|nvidia-container-cli|architecture'))
log = logging.getLogger('lamplighter.node')
class Broken(Exception):
 def __init__(self, reason, detail):
  super().__init__(detail)
  self.reason, self.detail = (reason, detail)
def judge(text, otherwise='engine_crashed'):
 return next((reason for reason, pattern in SIGNS if re.search(pattern, text)), otherwise)
def last_lines(text, count=3):
 lines = [line.strip() for line in text.splitlines() if line.strip()]
 return ' | '.join(lines[-count:])[-600:] or 'no output'
def boottime():
 return time.clock_gettime(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))
def write(path, content, mode=384):
 path.parent.mkdir(parents=True, exist_ok=True)
 temporary = path.with_name(f'.{path.name}.{os.getpid()}.{threading.get_ident()}')
 descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
 with os.fdopen(descriptor, 'w') as file:
  file.write(content)
 temporary.replace(path)
def tail(path, limit):
 try:
  with path.open('rb') as file:
   file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
   return file.read(limit).decode(errors='replace')
 except OSError:
  return ''
def run(command, timeout, stdin=''):
 try:
  return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace', timeout=timeout, check=False)
 except subprocess.TimeoutExpired as error:
  return subprocess.CompletedProcess(command, 124, str(error), '')
 except OSError as error:
  return subprocess.CompletedProcess(command, 127, str(error), '')
@dataclass(frozen=True)
class Settings:
 region: str
 nodes_queue_url: str
 bucket: str
 node_role_id: str
 boot_deadline: float
 lease: float
 drain: float
 mode: str = 'node'
 agent_port: int = 7443
 bake: Mapping[str, Any] = field(default_factory=dict)
 testing: Mapping[str, Any] = field(default_factory=dict)
 @classmethod
 def parse(cls, raw):
  if raw.get('version') != VERSION:
   raise ValueError(f"node.json has version {raw.get('version')!r}, this agent knows {VERSION}")
  return cls(**{name: raw[name] for name in cls.__dataclass_fields__ if name in raw})
 def path(self, absolute):
  return Path(self.testing.get('root', '/')) / absolute.lstrip('/')
 def url(self, service, real):
  return str(self.testing.get(f'{service}_url', real)).rstrip('/')
def x25519(scalar, point=9 .to_bytes(32, 'little')):
 p = 2 ** 255 - 19
 k = int.from_bytes(scalar, 'little') & ~7 & (1 << 255) - 1 | 1 << 254
 x1 = (int.from_bytes(point, 'little') & (1 << 255) - 1) % p
 x2, z2, x3, z3, swap = (1, 0, x1, 1, 0)
 for t in range(254, -1, -1):
  bit = k >> t & 1
  if swap ^ bit:
   x2, x3, z2, z3 = (x3, x2, z3, z2)
  swap = bit
  a, b, c, d = ((x2 + z2) % p, (x2 - z2) % p, (x3 + z3) % p, (x3 - z3) % p)
  da, cb, aa, bb = (d * a % p, c * b % p, a * a % p, b * b % p)
  x3, z3, x2, e = (pow(da + cb, 2, p), x1 * pow(da - cb, 2, p) % p, aa * bb % p, (aa - bb) % p)
  z2 = e * (aa + 121665 * e) % p
 if swap:
  x2, z2 = (x3, z3)
 return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, 'little')
def pem(label, content):
 text = base64.b64encode(content).decode()
 lines = '\n'.join((text[at:at + 64] for at in range(0, len(text), 64)))
 return f'-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n'
def unpem(text):
 found = re.search('-----BEGIN [A-Z0-9 ]+-----\\s([A-Za-z0-9+/=\\s]+)-----END', text)
 if found is None:
  raise ValueError('not PEM')
 return base64.b64decode(found[1])
def own_key(path):
 if not path.exists():
  write(path, pem('NEBULA X25519 PRIVATE KEY', secrets.token_bytes(32)))
 return pem('NEBULA X25519 PUBLIC KEY', x25519(unpem(path.read_text())))
METADATA = 'http://169.254.169.254'
def fetch(method, url, headers, body=b'', timeout=5.0):
 parts = urlsplit(url)
 kind = http.client.HTTPSConnection if parts.scheme == 'https' else http.client.HTTPConnection
 connection = kind(parts.hostname or '', parts.port, timeout=timeout)
 try:
  connection.request(method, parts.path or '/', body or None, dict(headers))
  answer = connection.getresponse()
  return (answer.status, answer.read(4 * BODY_LIMIT))
 except http.client.HTTPException as error:
  raise OSError(f'{parts.hostname}: {error!r}') from error
 finally:
  connection.close()
class Metadata:
 def __init__(self, base):
  self._base = base
  self._token, self._token_until = ('', 0.0)
  self._credentials = (0.0, {})
 def get(self, path):
  if time.monotonic() > self._token_until:
   status, body = fetch('PUT', f'{self._base}/latest/api/token', {'X-aws-ec2-metadata-token-ttl-seconds': '3600'}, timeout=2)
   if status != 200:
    raise OSError(f'the metadata service answers {status}')
   self._token, self._token_until = (body.decode(), time.monotonic() + 3000)
  status, body = fetch('GET', f'{self._base}/latest/meta-data/{path}', {'X-aws-ec2-metadata-token': self._token}, timeout=2)
  if status == 404:
   return None
  if status != 200:
   self._token_until = 0.0
   raise OSError(f'the metadata service answers {status}')
  return body.decode()
 def credentials(self):
  if time.monotonic() > self._credentials[0]:
   role = (self.get('iam/security-credentials/') or '').split('\n')[0]
   found = json.loads((self.get(f'iam/security-credentials/{role}') if role else None) or '{}')
   if 'AccessKeyId' not in found:
    raise OSError('the instance has no role')
   self._credentials = (time.monotonic() + 120, found)
  return self._credentials[1]
def sign(method, url, headers, body, keys, region, service, at):
 parts = urlsplit(url)
 stamp = time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(at))
 digest = hashlib.sha256(body).hexdigest()
 signed = {name.lower(): value for name, value in headers.items()} | {'host': parts.netloc, 'x-amz-date': stamp}
 if keys.get('Token'):
  signed['x-amz-security-token'] = keys['Token']
 if service == 's3':
  signed['x-amz-content-sha256'] = digest
 names = ';'.join(sorted(signed))
 lines = ''.join((f'{name}:{signed[name]}\n' for name in sorted(signed)))
 canonical = '\n'.join((method, parts.path or '/', '', lines, names, digest))
 scope = f'{stamp[:8]}/{region}/{service}/aws4_request'
 key = b'AWS4' + keys['SecretAccessKey'].encode()
 for part in scope.split('/'):
  key = hmac.new(key, part.encode(), hashlib.sha256).digest()
 text = f'AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}'
 mark = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
 value = f"AWS4-HMAC-SHA256 Credential={keys['AccessKeyId']}/{scope}, SignedHeaders={names}, Signature={mark}"
 return signed | {'authorization': value}
class Aws:
 def __init__(self, settings, metadata):
  self._settings, self._metadata = (settings, metadata)
  self._suffix = 'amazonaws.com' + ('.cn' if settings.region.startswith('cn-') else '')
 def send(self, message, timeout=5.0):
  parts = urlsplit(self._settings.nodes_queue_url)
  base = self._settings.url('sqs', f'{parts.scheme}://{parts.netloc}')
  form = {'Action': 'SendMessage', 'Version': '2012-11-05', 'MessageBody': json.dumps(message)}
  self._query('sqs', f'{base}{parts.path}', form, timeout)
 def get(self, key):
  status, body = self._call('GET', self._object(key), {}, b'', 's3')
  if status in (403, 404):
   return None
  if status != 200:
   raise OSError(f's3 answers {status}')
  return body
 def put(self, key, body, timeout=5.0):
  status, answer = self._call('PUT', self._object(key), {'content-type': 'text/plain; charset=utf-8'}, body, 's3', timeout)
  if status != 200:
   raise OSError(f's3 answers {status}: {answer[:200]!r}')
 def terminate(self, instance):
  form = {'InstanceId': instance, 'ShouldDecrementDesiredCapacity': 'true'}
  call = {'Action': 'TerminateInstanceInAutoScalingGroup', 'Version': '2011-01-01'}
  self._query('autoscaling', self._endpoint('autoscaling'), call | form)
 def attach(self, volume, instance):
  form = {'Action': 'AttachVolume', 'Version': '2016-11-15', 'VolumeId': volume, 'InstanceId': instance, 'Device': '/dev/sdf'}
  self._query('ec2', self._endpoint('ec2'), form)
 def secret(self, name):
  found = self._json('secretsmanager', self._endpoint('secretsmanager'), 'secretsmanager.GetSecretValue', {'SecretId': name})
  return str(found['SecretString'])
 def registry_password(self):
  base = self._settings.url('ecr', f'https://api.ecr.{self._settings.region}.{self._suffix}')
  found = self._json('ecr', base, 'AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken', {})
  return base64.b64decode(found['authorizationData'][0]['authorizationToken']).decode().partition(':')[2]
 def _endpoint(self, service):
  return self._settings.url(service, f'https://{service}.{self._settings.region}.{self._suffix}')
 def _object(self, key):
  bucket = self._settings.bucket
  base = self._settings.url('s3', '')
  base = f'{base}/{bucket}' if base else f'https://{bucket}.s3.{self._settings.region}.{self._suffix}'
  return f"{base}/{quote(key, safe='/-_.~')}"
 def _call(self, method, url, headers, body, service, timeout=5.0):
  keys = self._metadata.credentials()
  return fetch(method, url, sign(method, url, headers, body, keys, self._settings.region, service, time.time()), body, timeout)
 def _query(self, service, url, form, timeout=5.0):
  self._post(service, url, {'content-type': 'application/x-www-form-urlencoded; charset=utf-8'}, urlencode(form), timeout)
 def _json(self, service, url, target, document):
  headers = {'content-type': 'application/x-amz-json-1.1', 'x-amz-target': target}
  return json.loads(self._post(service, url, headers, json.dumps(document)))
 def _post(self, service, url, headers, body, timeout=5.0):
  status, answer = self._call('POST', url, headers, body.encode(), service, timeout)
  if status != 200:
   raise OSError(f'{service} answers {status}: {answer[:400]!r}')
  return answer
class Deadman:
 def __init__(self, path, settings, *, clock=boottime, wall=time.time, boot_id=''):
  self.boot_deadline, self.lease, self.drain = (settings.boot_deadline, settings.lease, settings.drain)
  self.ending = None
  self._path, self._clock, self._wall, self._boot_id = (path, clock, wall, boot_id)
  self._lock = threading.Lock()
  self.born = clock()
  self._until = None
  self._restore()
  self._save()
 def _restore(self):
  now = self._clock()
  try:
   saved = json.loads(self._path.read_text())
   away = 0.0 if saved['boot'] == self._boot_id else now - saved['clock'] - max(0.0, self._wall() - saved['wall'])
   self.born = min(now, saved['born'] + away)
   self._until = None if saved['until'] is None else min(now + self.lease, saved['until'] + away)
   self.ending = saved['ending']
  except FileNotFoundError:
   return
  except (OSError, ValueError, KeyError, TypeError) as error:
   log.warning("the dead-man's file is not readable (%r): one lease is left", error)
   self._until = now + self.lease
 def _save(self):
  saved = {'boot': self._boot_id, 'born': self.born, 'until': self._until, 'ending': self.ending}
  try:
   write(self._path, json.dumps(saved | {'clock': self._clock(), 'wall': self._wall()}))
  except OSError as error:
   log.warning("the dead-man's file cannot be written: %s", error)
 def renew(self, seconds):
  with self._lock:
   left = max(0.0, min(seconds, self.lease))
   self._until = self._clock() + left
   self._save()
   return left
 def end(self, reason):
  with self._lock:
   self.ending = self.ending or reason
   self._save()
 def remaining(self):
  until = self.born + self.boot_deadline if self._until is None else self._until
  return max(0.0, until - self._clock())
 def due(self):
  now = self._clock()
  if self.ending:
   return self.ending
  if self._until is None:
   return 'boot_deadline' if now >= self.born + self.boot_deadline else None
  return 'lease' if now >= self._until + self.drain else None
STAGES = ('boot', 'mesh', 'pull', 'load')
@dataclass
class Stage:
 name: str
 wanted: bool = False
 finished: bool = False
 started_at: float | None = None
 ended_at: float | None = None
 progress: float | None = None
 detail: str | None = None
class Stages:
 def __init__(self, path, tell):
  self._path, self._tell = (path, tell)
  self._lock = threading.RLock()
  self._all = {name: Stage(name) for name in STAGES}
  with contextlib.suppress(OSError, ValueError, TypeError):
   self._all |= {one['name']: Stage(**one) for one in json.loads(path.read_text()) if one['name'] in STAGES}
 def begin(self, name):
  self._change(name, wanted=True)
 def end(self, name):
  self._change(name, wanted=True, finished=True)
 def update(self, name, progress, detail):
  self._change(name, progress=progress, detail=detail)
  stage = self._all[name]
  if stage.started_at and (not stage.ended_at):
   self._tell(stage, 'progress')
 def current(self):
  return next((name for name in STAGES if self._all[name].ended_at is None), STAGES[-1])
 def listed(self):
  keys = ('name', 'started_at', 'ended_at', 'progress', 'detail')
  with self._lock:
   return [{key: getattr(one, key) for key in keys} for one in self._all.values() if one.started_at]
 def _change(self, name, **changes: Any):
  told = []
  with self._lock:
   for key, value in changes.items():
    setattr(self._all[name], key, value)
   for stage in self._all.values():
    if stage.wanted and stage.started_at is None:
     stage.started_at = time.time()
     told.append((stage, 'begin'))
    if stage.finished and stage.ended_at is None:
     stage.ended_at = time.time()
     told.append((stage, 'end'))
    if stage.ended_at is None:
     break
   with contextlib.suppress(OSError):
    write(self._path, json.dumps([vars(one) for one in self._all.values()]))
  for stage, state in told:
   self._tell(stage, state)
NEBULA_FILES = ('config.yml', 'ca.crt', 'node.crt')
@dataclass(frozen=True)
class Engine:
 image: str
 port: int
 arguments: tuple[str, ...] = ()
 environment: Mapping[str, str] = field(default_factory=dict)
 secrets: Mapping[str, str] = field(default_factory=dict)
 key: str = field(default='', repr=False)
 weights: str = '/models'
 health: str = '/health'
 prepare: tuple[str, ...] = ()
@dataclass(frozen=True)
class Assignment:
 replica: str
 model: str
 overlay: str
 nebula: Mapping[str, str]
 agent_token: str = field(repr=False)
 engine: Engine
 hub_token_secret: str | None = None
 limits: Mapping[str, float] = field(default_factory=dict)
 @classmethod
 def parse(cls, raw, instance):
  try:
   if raw['version'] != VERSION or raw['instance'] != instance:
    raise ValueError(f"it is of version {raw['version']!r} for {raw['instance']!r}")
   given = raw['engine']
   known = {name: given[name] for name in Engine.__dataclass_fields__ if name in given}
   engine = Engine(**known | {name: tuple(map(str, given.get(name, ()))) for name in ('arguments', 'prepare')})
   if not 0 < engine.port < 65536 or not str(engine.image).strip() or engine.image.startswith('-'):
    raise ValueError('its port or image is impossible')
   if '\n' in ''.join((f'{name}{value}' for name, value in engine.environment.items())) + engine.key or len(raw['agent_token']) < 16:
    raise ValueError('its environment, key or token is of no use')
   limits = {name: float(raw[name]) for name in ('lease', 'boot_deadline', 'drain') if name in raw}
   overlay = str(ipaddress.IPv4Address(raw['overlay']))
   nebula = nebula_files(raw['nebula'])
   token, secret = (str(raw['agent_token']), raw.get('hub_token_secret'))
   return cls(str(raw['replica']), str(raw['model']), overlay, nebula, token, engine, secret, limits)
  except (KeyError, TypeError, AttributeError) as error:
   raise ValueError(repr(error)) from error
def nebula_files(files):
 if not isinstance(files, dict) or not files or (not set(files) <= set(NEBULA_FILES)):
  raise ValueError(f'files of Nebula are {NEBULA_FILES}')
 if not all((isinstance(text, str) and 0 < len(text) < BODY_LIMIT for text in files.values())):
  raise ValueError('a file of Nebula is a text')
 return files
class Docker:
 name = 'lamplighter-engine'
 def __init__(self, settings, aws, pause=3.0):
  self._settings, self._aws, self._pause = (settings, aws, pause)
 def ready(self):
  return self._settings.path('/run/lamplighter/runtime.ready').exists()
 def pull(self, image, tell):
  if run(('docker', 'image', 'inspect', image), 30).returncode == 0:
   return
  own = re.match('(\\d{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(\\.cn)?)/', image)
  text = ''
  for attempt in range(3):
   time.sleep(attempt * self._pause)
   if own:
    try:
     login = f'docker login --username AWS --password-stdin {own[1]}'
     run(login.split(), 30, self._aws.registry_password())
    except OSError as error:
     log.warning('no password for the registry: %s', error)
   done, text = self._pull(image, tell)
   if done:
    return
   if re.search('manifest unknown|not found|denied|unauthorized|invalid reference', text):
    raise Broken('bad_image', last_lines(text, 1))
  raise Broken(judge(text, 'download_failed'), last_lines(text, 1))
 def _pull(self, image, tell):
  shares = {'Download complete': 0.5, 'Extracting': 0.6, 'Pull complete': 1.0, 'Already exists': 1.0}
  layers = {}
  text = ''
  try:
   process = subprocess.Popen(('docker', 'pull', image), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  except OSError as error:
   raise Broken('engine_missing', f'docker: {error.strerror}') from error
  with process:
   for line in process.stdout or ():
    text = (text + line)[-4000:]
    if (found := re.match('([0-9a-f]{12}): (\\w+(?: \\w+)*)', line)):
     layers[found[1]] = max(layers.get(found[1], 0.0), shares.get(found[2], 0.0))
     done = sum((share == 1 for share in layers.values()))
     tell(sum(layers.values()) / len(layers), f'image: {done} of {len(layers)} layers')
  return (process.returncode == 0, text)
 def start(self, assignment, host, environment, weights):
  engine = assignment.engine
  run(('docker', 'rm', '--force', self.name), 30)
  file = self._settings.path('/run/lamplighter/engine.env')
  write(file, ''.join((f'{name}={value}\n' for name, value in environment.items())))
  options = f'--detach --name {self.name} --gpus all --shm-size 8g --restart no --pull never --security-opt no-new-privileges --log-driver local --log-opt max-size=20m --log-opt max-file=2 --publish {host}:{engine.port}:{engine.port} --env-file {file}'
  volume = ('--volume', f'{weights}:{engine.weights}')
  command = ('docker', 'run', *options.split(), *volume, engine.image, *engine.arguments)
  done = run(command, 120)
  file.unlink(missing_ok=True)
  if done.returncode != 0:
   raise Broken(judge(done.stdout, 'engine_missing'), last_lines(done.stdout, 1))
 def state(self):
  done = run(('docker', 'inspect', '--format', '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}', self.name), 20)
  words = done.stdout.split()
  if done.returncode != 0 or len(words) != 3:
   return ('absent' if 'o such' in done.stdout else 'unknown', None)
  if words[0] in ('exited', 'dead'):
   return ('exited', 137 if words[2] == 'true' else int(words[1]))
  return ('running', None)
 def execute(self, command, timeout):
  return run(('docker', 'exec', self.name, *command), timeout)
 def logs(self):
  return run(('docker', 'logs', '--tail', '2000', self.name), 5).stdout
class Nebula:
 def __init__(self, settings):
  self._folder = settings.path('/etc/nebula')
  self._pid = settings.path('/run/lamplighter/nebula.pid')
  self._log = settings.path('/var/log/lamplighter/nebula.log')
 def install(self, files):
  for name, text in files.items():
   write(self._folder / name, text)
  if (pid := self._running()):
   os.kill(pid, signal.SIGHUP)
 def installed(self):
  return shutil.which('nebula') is not None
 def start(self):
  self._log.parent.mkdir(parents=True, exist_ok=True)
  with self._log.open('ab') as output:
   command = ('nebula', '-config', str(self._folder / 'config.yml'))
   process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
  write(self._pid, str(process.pid))
 def alive(self):
  return self._running() > 0
 def fingerprint(self):
  done = run(('nebula-cert', 'print', '-json', '-path', str(self._folder / 'node.crt')), 5)
  found = re.search('"fingerprint": *"([0-9a-f]{64})"', done.stdout)
  return found[1] if found else None
 def _running(self):
  try:
   pid = int(self._pid.read_text())
   if b'nebula' not in Path(f'/proc/{pid}/cmdline').read_bytes():
    return _reaped(pid)
  except (OSError, ValueError):
   return 0
  return pid
def _reaped(pid):
 os.waitpid(pid, os.WNOHANG)
 return 0
QUIET = 4
@dataclass
class EngineState:
 state: str = 'waiting'
 detail: str | None = None
 exit: int | None = None
class Launch:
 def __init__(self, settings, assignment, docker, aws, stages, host, shown, pause):
  self._settings, self._assignment, self._engine = (settings, assignment, assignment.engine)
  self._docker, self._aws, self._stages, self._host, self._shown, self._pause = (docker, aws, stages, host, shown, pause)
  self._weights = settings.path('/var/lib/lamplighter/models')
  wanted = (self._engine.image, self._engine.arguments, self._engine.prepare)
  self._complete = self._weights / f'.lamplighter-{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]}'
 def pull(self):
  while not self._docker.ready():
   self._pause(0.2)
  self._stages.begin('pull')
  self._show('pulling')
  self._docker.pull(self._engine.image, lambda share, detail: self._stages.update('pull', share, detail))
 def start(self):
  started = self._settings.path('/run/lamplighter/engine.started')
  if not started.exists() and self._docker.state()[0] != 'running':
   self._docker.start(self._assignment, self._host, self._environment(), self._weights)
   write(started, '')
 def watch(self):
  self._show('starting')
  self._await()
  with contextlib.suppress(OSError):
   write(self._complete, '', 420)
  self._stages.end('pull')
  self._stages.end('load')
  self._show('ready')
  state, code = self._docker.state()
  while state not in ('exited', 'absent'):
   self._pause(2)
   state, code = self._docker.state()
  self._show('exited', last_lines(self._docker.logs()), code)
 def _environment(self):
  values = {'key': self._engine.key}
  if (name := self._assignment.hub_token_secret) and 'hub_token' in self._engine.secrets.values():
   try:
    values['hub_token'] = self._aws.secret(name).strip()
   except (OSError, KeyError, ValueError) as error:
    log.warning('no token for the hub: %s', error)
  filled = {name: values[what] for name, what in self._engine.secrets.items() if values.get(what)}
  return {**self._engine.environment, **filled}
 def _await(self):
  quiet = QUIET if self._complete.exists() else None
  preparing = None
  while True:
   self._check()
   size = downloading(self._weights)
   if size is not None:
    quiet = 0
    self._stages.update('pull', None, f'weights: {size / 1000000000.0:.1f} GB')
   elif quiet is not None:
    quiet += 1
    if quiet > QUIET:
     self._stages.end('pull')
     self._stages.begin('load')
   if preparing is None and self._answers():
    if not self._engine.prepare:
     return
    preparing = self._prepare()
   if preparing:
    if preparing[0].returncode == 0:
     return
    raise Broken(judge(preparing[0].stdout, 'download_failed'), last_lines(preparing[0].stdout))
   self._pause(0.5)
 def _check(self):
  state, code = self._docker.state()
  if state in ('exited', 'absent'):
   text = self._docker.logs()
   self._show('exited', last_lines(text), code)
   reason = 'out_of_memory' if code == 137 else judge(text)
   raise Broken(reason, f'the engine ended with status {code}: {last_lines(text)}')
 def _prepare(self):
  done = []
  def work():
   done.append(self._docker.execute(self._engine.prepare, 86400))
  threading.Thread(target=work, daemon=True, name='prepare').start()
  return done
 def _answers(self):
  try:
   return fetch('GET', f'http://{self._host}:{self._engine.port}{self._engine.health}', {}, timeout=2)[0] == 200
  except OSError:
   return False
 def _show(self, state, detail=None, code=None):
  self._shown.state, self._shown.detail, self._shown.exit = (state, detail, code)
def downloading(folder):
 total, partial = (0.0, False)
 for where, _, names in os.walk(folder):
  for name in names:
   partial = partial or name.endswith(('.incomplete', '.downloadInProgress')) or '-partial' in name
   with contextlib.suppress(OSError):
    total += (Path(where) / name).lstat().st_blocks * 512
 return total if partial else None
LOGS = ('bootstrap', 'engine', 'nebula', 'agent')
_OK: dict[str, Any] = {'ok': True}
class Server(http.server.ThreadingHTTPServer):
 daemon_threads = True
 request_queue_size = 16
 def __init__(self, address, agent):
  super().__init__(address, Handler)
  self.agent = agent
  self._free = threading.Semaphore(16)
 def process_request(self, request, client_address):
  if self._free.acquire(blocking=False):
   super().process_request(request, client_address)
  else:
   self.shutdown_request(request)
 def process_request_thread(self, request, client_address):
  try:
   super().process_request_thread(request, client_address)
  finally:
   self._free.release()
 def handle_error(self, request, client_address):
  log.debug('a request of %s broke', client_address, exc_info=True)
class Handler(http.server.BaseHTTPRequestHandler):
 server: Server
 timeout = 5
 server_version, sys_version = ('lamplighter-agent', '')
 def do_GET(self):
  self._do('GET')
 def do_POST(self):
  self._do('POST')
 def _do(self, method):
  url = urlsplit(self.path)
  content: Any
  try:
   if url.path == '/health':
    status, content = (200, _OK)
   elif self._allowed():
    status, content = self._route(f'{method} {url.path}', parse_qs(url.query))
   else:
    status, content = (401, {'error': 'unauthorized'})
  except (ValueError, KeyError, TypeError) as error:
   status, content = (400, {'error': str(error)[:200]})
  except OSError as error:
   status, content = (500, {'error': str(error)[:200]})
  text = content if isinstance(content, str) else json.dumps(content)
  self.send_response(status)
  self.send_header('Content-Type', 'text/plain; charset=utf-8' if isinstance(content, str) else 'application/json')
  self.end_headers()
  self.wfile.write(text.encode(errors='replace'))
  if status == 202:
   self.server.agent.ask_end('asked')
 def _route(self, what, query):
  agent = self.server.agent
  if what == 'GET /status':
   return (200, agent.status())
  if what == 'GET /logs':
   name, count = (query['name'][0], int(query.get('bytes', ['65536'])[0]))
   if name not in LOGS or count < 1:
    raise ValueError(f'name is one of {LOGS}')
   return (200, agent.log(name, min(count, BODY_LIMIT)))
  if what == 'POST /lease':
   seconds = self._body()['seconds']
   if type(seconds) not in (int, float) or not 0 < seconds < 1000000.0:
    raise ValueError('seconds is a number above 0')
   if agent.deadman.ending:
    return (409, {'error': f'ending: {agent.deadman.ending}'})
   return (200, {'remaining': agent.deadman.renew(seconds)})
  if what == 'POST /nebula':
   agent.nebula.install(nebula_files(self._body()['files']))
   return (200, {'fingerprint': agent.nebula.fingerprint()})
  if what == 'POST /end':
   log.warning('asked to end: %.200r', self._body().get('reason'))
   return (202, _OK)
  return (404, {'error': 'not found'})
 def _allowed(self):
  agent = self.server.agent
  given = (self.headers.get('Authorization') or '').encode('utf-8', 'surrogateescape')
  if not hmac.compare_digest(given, f'Bearer {agent.token}'.encode()):
   return False
  agent.met()
  return True
 def _body(self):
  length = int(self.headers.get('Content-Length', 0))
  if not 0 <= length <= BODY_LIMIT:
   raise ValueError('the body is too large')
  body = json.loads(self.rfile.read(length) or b'{}')
  if not isinstance(body, dict):
   raise TypeError('the body is not an object')
  return body
 def log_message(self, format, *args: Any):
  pass
SPOT_MARGIN = 20.0
FAREWELL, TERMINATE = (10.0, 15.0)
class Agent:
 def __init__(self, settings, *, docker=None, nebula=None, clock=boottime):
  self.settings = settings
  self.metadata = Metadata(settings.url('metadata', METADATA))
  self.aws = Aws(settings, self.metadata)
  self.docker = docker or Docker(settings, self.aws)
  self.nebula = nebula or Nebula(settings)
  self.boot_id = tail(Path('/proc/sys/kernel/random/boot_id'), 64).strip()
  self.deadman = Deadman(settings.path('/var/lib/lamplighter/deadman.json'), settings, clock=clock, boot_id=self.boot_id)
  self.instance, self.public_key = ('', '')
  self.assignment = None
  self.engine = EngineState()
  self.notice = None
  self.failure = None
  self.steps = {}
  self._clock = clock
  self._outbox = queue.Queue(256)
  self._told = 0.0
  self._threads = {}
  self._wake, self._stopped = (threading.Event(), threading.Event())
  self.stages = Stages(settings.path('/run/lamplighter/stages.json'), self._tell)
 def run(self):
  works = {'steps': self._follow_steps, 'outbox': self._send}
  if self.settings.mode == 'node':
   works |= {'life': self._live, 'spot': self._watch_spot}
  for name, work in works.items():
   self._spawn(name, work)
  while not self._stopped.is_set():
   if (reason := self.deadman.due()):
    return self.end(reason)
   watchdog()
   self._wake.wait(1.0)
   self._wake.clear()
  return 0
 def stop(self):
  self._stopped.set()
  self._wake.set()
 def end(self, reason):
  log.warning('the node ends: %s', reason)
  self.deadman.end(reason)
  self._limited(FAREWELL, lambda: self._farewell(reason))
  taken = self.settings.mode == 'node' and self._limited(TERMINATE, self._terminate)
  command = self.settings.testing.get('shutdown', ()) if self.settings.testing else ('shutdown', '-h', 'now')
  down = run(command, 5) if command else None
  log.warning('told AWS: %s; shutdown: %s', taken, down and down.returncode)
  self._stopped.set()
  return 0 if taken or (down and down.returncode == 0) else 1
 def _limited(self, seconds, work):
  done = threading.Event()
  def whole():
   work()
   done.set()
  try:
   threading.Thread(target=whole, daemon=True).start()
  except RuntimeError:
   return False
  return done.wait(seconds)
 def _farewell(self, reason):
  detail = self.failure['detail'] if self.failure else None
  message = self._message('end', reason=reason, detail=detail, failure=self.failure)
  with contextlib.suppress(OSError, ValueError, KeyError):
   self.aws.send(message, timeout=3)
   for name in LOGS:
    if (text := self.log(name, LOG_LIMIT)):
     self.aws.put(f'nodes/{self.sender}/logs/{name}.log', text.encode(), timeout=3)
 def _terminate(self):
  while True:
   try:
    return self.aws.terminate(self.instance)
   except (OSError, ValueError, KeyError) as error:
    log.warning('AWS does not end this instance: %s', error)
   time.sleep(1)
 @property
 def sender(self):
  return f'{self.settings.node_role_id}:{self.instance}'
 @property
 def host(self):
  assert self.assignment is not None
  return str(self.settings.testing.get('agent_host', self.assignment.overlay))
 def _live(self):
  self.stages.begin('boot')
  while not self.instance:
   try:
    self.instance = self.metadata.get('instance-id') or ''
   except OSError as error:
    log.warning('who am I? %s', error)
    self._pause(1)
  self.public_key = own_key(self.settings.path('/etc/nebula/node.key'))
  self._read_assignment()
  self.stages.end('boot')
  self.stages.begin('mesh')
  self._spawn('engine', self._run_engine)
  self._spawn('mesh', self._run_mesh)
  self._spawn('api', self._serve)
 def _read_assignment(self):
  kept = self.settings.path('/run/lamplighter/assignment.json')
  with contextlib.suppress(OSError, ValueError):
   self.assignment = Assignment.parse(json.loads(kept.read_text()), self.instance)
  hello = -15.0
  while self.assignment is None:
   if time.monotonic() - hello >= 15:
    self._post(self._message('hello', public_key=self.public_key))
    hello = time.monotonic()
   try:
    if (found := self.aws.get(f'nodes/{self.sender}/assignment.json')):
     assignment = Assignment.parse(json.loads(found), self.instance)
     self.nebula.install(assignment.nebula)
     write(kept, found.decode())
     self.assignment = assignment
     break
   except (OSError, ValueError) as error:
    log.warning('no assignment: %s', error)
   self._pause(1)
  for name, seconds in self.assignment.limits.items():
   if 0 < seconds < 86400:
    setattr(self.deadman, name, seconds)
 def _run_mesh(self):
  failed = 0
  while True:
   if self.nebula.installed() and (not self.nebula.alive()):
    with contextlib.suppress(OSError):
     self.nebula.start()
    self._pause(0.3)
    failed = 0 if self.nebula.alive() else failed + 1
    if failed >= 5 and self.stages.current() == 'mesh':
     raise Broken('mesh_timeout', 'nebula does not run: ' + last_lines(self.log('nebula', 4096)))
   self._pause(2 if self.nebula.alive() else 0.3)
 def _await_overlay(self):
  while True:
   with contextlib.suppress(OSError), socket.create_server((self.host, 0)):
    return
   self._pause(0.1)
 def _run_engine(self):
  assert self.assignment is not None
  launch = Launch(self.settings, self.assignment, self.docker, self.aws, self.stages, self.host, self.engine, self._pause)
  launch.pull()
  self._await_overlay()
  launch.start()
  launch.watch()
 def _serve(self):
  self._await_overlay()
  with Server((self.host, self.settings.agent_port), self) as server:
   log.info('listening on %s:%s', self.host, server.server_port)
   server.serve_forever(0.2)
 def met(self):
  self.stages.end('mesh')
 @property
 def token(self):
  assert self.assignment is not None
  return self.assignment.agent_token
 def _watch_spot(self):
  while True:
   with contextlib.suppress(OSError, ValueError, KeyError):
    if (text := self.metadata.get('spot/instance-action')) is not None:
     at = calendar.timegm(time.strptime(json.loads(text)['time'], '%Y-%m-%dT%H:%M:%SZ'))
     self.notice = {'kind': 'interruption', 'at': at, 'detail': text[:200]}
     if time.time() >= at - SPOT_MARGIN:
      self.ask_end('spot')
    elif self.notice is None and (text := self.metadata.get('events/recommendations/rebalance')) is not None:
     self.notice = {'kind': 'rebalance', 'at': None, 'detail': text[:200]}
   self._pause(2)
 def _follow_steps(self):
  folder = self.settings.path('/run/lamplighter/steps')
  folder.mkdir(parents=True, exist_ok=True)
  while True:
   for path in sorted(folder.glob('*.json')):
    self.step(**json.loads(path.read_text()))
    path.unlink()
   self._pause(0.3)
 def step(self, name, state, at, detail='', reason=''):
  step = self.steps.setdefault(name, {'started_at': at, 'ended_at': None})
  log.info('step %s: %s %s', name, state, detail)
  if state == 'begin':
   self.stages.update(self.stages.current(), None, f'{name}: {detail}' if detail else name)
  elif state == 'end':
   step['ended_at'] = at
   if name == 'baked':
    self._baked()
  elif state == 'fail':
   self.fail(reason or 'provider_error', f'{name}: {detail}')
 def _baked(self):
  steps = {name: round(one['ended_at'] - one['started_at'], 1) for name, one in self.steps.items() if one['ended_at']}
  self.instance = self.metadata.get('instance-id') or ''
  self.aws.send(self._message('baked', steps=steps))
  write(self.settings.path('/run/lamplighter/baked'), '')
 def fail(self, reason, detail):
  if self.failure is None:
   stage = self.stages.current()
   log.error('%s fails (%s): %s', stage, reason, detail)
   self.failure = {'stage': stage, 'reason': reason, 'detail': detail}
   self._post(self._message('stage', name=stage, state='fail', progress=None, detail=detail, reason=reason))
   self.ask_end('failed')
 def ask_end(self, reason):
  self.deadman.end(reason)
  self._wake.set()
 def status(self):
  return {'version': VERSION, 'instance': self.instance, 'boot_id': self.boot_id, 'uptime': round(self._clock() - self.deadman.born, 1), 'stages': self.stages.listed(), 'steps': dict(self.steps), 'lease': {'remaining': round(self.deadman.remaining(), 1)}, 'notice': self.notice, 'engine': vars(self.engine), 'failure': self.failure, 'certificate': {'fingerprint': self.nebula.fingerprint()}, 'public_key': self.public_key}
 def log(self, name, limit):
  if name == 'engine':
   return self.docker.logs().encode()[-limit:].decode(errors='replace')
  return tail(self.settings.path(f'/var/log/lamplighter/{name}.log'), limit)
 def _tell(self, stage, state):
  if state == 'progress':
   if self.stages.current() not in ('boot', 'mesh') or time.monotonic() - self._told < 3:
    return
   self._told = time.monotonic()
  self._post(self._message('stage', name=stage.name, state=state, progress=stage.progress, detail=stage.detail))
 def _message(self, kind, **content: Any):
  return {'version': VERSION, 'kind': kind, 'instance': self.instance, 'at': time.time(), **content}
 def _post(self, message):
  with contextlib.suppress(queue.Full):
   self._outbox.put_nowait(message)
 def _send(self):
  while True:
   message = self._outbox.get()
   while not self.instance:
    self._pause(0.2)
   for attempt in range(10):
    try:
     self.aws.send(message | {'instance': self.instance})
     break
    except OSError as error:
     log.warning('not sent (%s): %s', message['kind'], error)
     self._pause(min(10, 0.5 * 2 ** attempt))
 def _pause(self, seconds):
  if self._stopped.wait(seconds):
   raise SystemExit
 def _spawn(self, name, work):
  def keep():
   wait = 0.5
   while True:
    try:
     work()
    except Broken as broken:
     self.fail(broken.reason, broken.detail)
    except Exception:
     log.exception('the thread %s broke and is started again', name)
     wait = min(30, 2 * wait)
     self._pause(wait)
     continue
    break
  if name not in self._threads or not self._threads[name].is_alive():
   self._threads[name] = threading.Thread(target=keep, daemon=True, name=name)
   self._threads[name].start()
def watchdog():
 address = os.environ.get('NOTIFY_SOCKET')
 if address:
  with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
   notify.sendto(b'WATCHDOG=1', address.replace('@', '\x00', 1))
CONFIG = Path('/etc/lamplighter/node.json')
def main(argv=None):
 given = list(sys.argv[1:] if argv is None else argv)
 raw = json.loads(CONFIG.read_text())
 settings = Settings.parse(raw)
 metadata = Metadata(settings.url('metadata', METADATA))
 aws = Aws(settings, metadata)
 try:
  match given:
   case ['run']:
    return _agent(settings)
   case ['step', name, 'begin' | 'end' | 'fail' as state, *rest] if len(rest) <= 2:
    report(settings, name, state, *rest)
   case ['get', name]:
    for part in name.split('.'):
     raw = raw.get(part) if isinstance(raw, dict) else None
    sys.stdout.write(f"{('' if raw is None else raw)}\n")
   case ['attach', volume]:
    aws.attach(volume, metadata.get('instance-id') or '')
   case ['bake']:
    bake(settings, Docker(settings, aws))
   case _:
    sys.stderr.write(f'usage: agent.py {main.__doc__}\n')
    return 2
 except (OSError, Broken) as error:
  sys.stderr.write(f'{error}\n')
  return 1
 return 0
def _agent(settings):
 file = settings.path('/var/log/lamplighter/agent.log')
 file.parent.mkdir(parents=True, exist_ok=True)
 logging.basicConfig(level=logging.INFO, format='%(asctime)s %(levelname)s %(message)s', filename=file)
 return Agent(settings).run()
def report(settings, name, state, detail='', reason=''):
 step = {'name': name, 'state': state, 'at': time.time(), 'detail': detail[-600:], 'reason': reason}
 write(settings.path(f'/run/lamplighter/steps/{time.time_ns():020}.json'), json.dumps(step))
def _silent(_share, _detail):
 pass
def bake(settings, docker):
 for image in settings.bake.get('images', ()):
  report(settings, f'image {image}', 'begin')
  docker.pull(image, _silent)
  report(settings, f'image {image}', 'end')
 for image, program, *arguments in settings.bake.get('weights', ()):
  name = f"weights {' '.join(arguments)}"
  report(settings, name, 'begin')
  folder = settings.path('/var/lib/lamplighter/models')
  done = run(('docker', 'run', '--rm', '--volume', f'{folder}:/models', '--entrypoint', program, image, *arguments), 7200)
  if done.returncode != 0:
   raise Broken(judge(done.stdout, 'download_failed'), last_lines(done.stdout))
  report(settings, name, 'end')
if __name__ == '__main__':
 sys.exit(main())
