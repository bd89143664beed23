"""The part that every plugin in Python needs: speak deliveryd.transport.v1 on a
unix socket, end with the daemon, log in its form, dial only where the operator
lets it. What is about ntfy is in __main__.py."""

import base64
import datetime
import ipaddress
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import json_format

from deliveryd.transport.v1 import transport_pb2 as pb
from deliveryd.transport.v1 import transport_pb2_grpc as pb_grpc

MAX_MESSAGE = 16 << 20  # the contract's largest gRPC message
GRACE = 1.5  # how long running items may go on after the daemon is gone; the contract says 2 s
LEVELS = {"trace": 0, "debug": 1, "info": 2, "warn": 3, "error": 4, "off": 5}
LEAST = LEVELS.get(os.environ.get("DELIVERYD_PLUGIN_LOG_LEVEL", "info"), 2)


def log(level, message, **fields):
    """Writes one line for the daemon's log. Never give it a secret or a payload."""
    if LEVELS[level] >= LEAST:
        print(json.dumps({"@level": level, "@message": message, **fields}), file=sys.stderr, flush=True)


class Failed(Exception):
    """An attempt failed: the class says what the daemon should do."""

    def __init__(self, kind, code, message, **more):
        super().__init__(message)
        self.failure = pb.Failure(
            **{"class": pb.Failure.Class.Value("CLASS_" + kind)}, code=code[:64], message=(message or code)[:300], **more
        )


def diagnostic(attribute, summary, detail=""):
    """One mistake in a configuration, at an attribute or at no place."""
    found = pb.Diagnostic(severity=pb.Diagnostic.SEVERITY_ERROR, summary=summary, detail=detail)
    if attribute:
        found.path.add(attribute=attribute)
    return found


class Guard:
    """Dials for one instance, within the operator's policy. The addresses that it
    checks are those that it dials: a name cannot mean another machine in between."""

    def __init__(self, policy):
        self.networks = [ipaddress.ip_network(one, strict=False) for one in policy.allow_cidrs]
        self.hosts = {one.lower().rstrip(".") for one in policy.allow_hosts}

    def allows(self, host, address):
        if host.lower().rstrip(".") in self.hosts or any(address in network for network in self.networks):
            return True
        inner = hidden(address)
        if inner:
            return self.allows(host, inner)
        return address.is_global and not address.is_multicast

    def connect(self, target, timeout, *_):
        host, port = target
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as e:
            raise Failed("UNAVAILABLE", "dns.failed", f"looking up {host}: {e}") from None
        problem = None
        for family, kind, protocol, _, address in found:
            if not self.allows(host, ipaddress.ip_address(address[0].split("%")[0])):
                problem = problem or Failed("CONFIG", "egress.blocked", f"{host} leads to {address[0]}, which is not public; the operator's egress {{ allow }} can permit it")
                continue
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(timeout)
            try:
                sock.connect(address)
                return sock
            except OSError as e:
                sock.close()
                problem = Failed("UNAVAILABLE", "tcp.failed", f"connecting to {host}: {e}")
        raise problem or Failed("UNAVAILABLE", "dns.not_found", f"{host} has no address")


NAT64 = ipaddress.ip_network("64:ff9b::/96")


def hidden(address):
    """The IPv4 address that an IPv6 address leads to, if it is of such a kind."""
    if address.version == 4:
        return None
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or [None, None])[1]


class Attempt:
    """One item at work. The thread that answers the daemon may give it up at any
    time; the thread that works on it then finds its connection cut."""

    def __init__(self, item):
        self.item = item
        self.deadline = item.deadline.ToNanoseconds() / 1e9
        self.started = time.time()
        self._lock = threading.Lock()
        self._socket = None
        self._given_up = False

    def remaining(self):
        return self.deadline - time.time()

    def uses(self, sock):
        with self._lock:
            self._socket = sock
            if self._given_up:
                self._cut()

    def give_up(self):
        with self._lock:
            self._given_up = True
            self._cut()

    def _cut(self):
        try:
            if self._socket:
                self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already

    def result(self, outcome):
        result = pb.Result(id=self.item.id, **outcome)
        result.took.FromNanoseconds(max(0, int((time.time() - self.started) * 1e9)))
        return result


class Instance:
    """One opened configuration, with the number of items at work."""

    def __init__(self, transport):
        self.transport = transport
        self.in_flight = 0
        self.draining = False
        self.idle = threading.Condition()

    def enter(self):
        with self.idle:
            if self.draining:
                return False
            self.in_flight += 1
            return True

    def leave(self):
        with self.idle:
            self.in_flight -= 1
            self.idle.notify_all()


class Server(pb_grpc.TransportServicer):
    """The service. describe is the answer to Describe; validate(config) lists
    diagnostics; open(config, guard) makes an object with deliver(attempt), which
    returns a pb.Success or raises Failed, and test(ping), which yields steps."""

    def __init__(self, describe, validate, open):
        self.describe, self.validate, self.open = describe, validate, open
        self.instances, self.lock = {}, threading.Lock()
        self.workers = futures.ThreadPoolExecutor(describe.capabilities.max_in_flight)

    def Describe(self, request, context):
        return self.describe

    def check(self, config):
        try:
            decoded = json.loads(config.json)
        except ValueError as e:
            return None, [diagnostic("", f"the configuration is not JSON: {e}")]
        if not isinstance(decoded, dict):
            return None, [diagnostic("", "the configuration is no object")]
        return decoded, self.validate(decoded)

    def Validate(self, request, context):
        return pb.ValidateResponse(diagnostics=self.check(request.config)[1])

    def Open(self, request, context):
        config, found = self.check(request.config)
        if not any(one.severity != pb.Diagnostic.SEVERITY_WARNING for one in found):
            with self.lock:
                self.instances[key(request.instance)] = Instance(self.open(config, Guard(request.egress)))
        return pb.OpenResponse(diagnostics=found)

    def find(self, ref):
        with self.lock:
            return self.instances.get(key(ref))

    def Close(self, request, context):
        instance = self.find(request.instance)
        if instance:
            with instance.idle:
                instance.draining = True
                instance.idle.wait_for(lambda: instance.in_flight == 0, context.time_remaining())
            with self.lock:
                self.instances.pop(key(request.instance), None)
        return pb.CloseResponse()

    def Health(self, request, context):
        with self.lock:
            refs = request.instances or [pb.InstanceRef(id=i, generation=g) for i, g in self.instances]
        answer = pb.HealthResponse()
        for ref in refs:
            health, instance = answer.instances.add(instance=ref), self.find(ref)
            if not instance:
                health.state, health.reason = pb.InstanceHealth.STATE_FAILED, "the instance is not open"
                continue
            health.state = pb.InstanceHealth.STATE_DRAINING if instance.draining else pb.InstanceHealth.STATE_OK
            health.in_flight = instance.in_flight
        return answer

    def TestConnection(self, request, context):
        answer, instance = pb.TestConnectionResponse(), self.find(request.instance)
        steps = instance.transport.test(request.ping) if instance else [("open", lambda: fail_closed())]
        for name, run in steps:
            step, started = answer.steps.add(name=name), time.monotonic()
            try:
                step.detail, step.ok = run() or "", True
            except Failed as e:
                step.failure.CopyFrom(e.failure)
            step.took.FromNanoseconds(int((time.monotonic() - started) * 1e9))
            if not step.ok:
                break
        return answer

    def Deliver(self, request, context):
        """Streams one result per item, each as it ends. No item waits for another,
        and none is waited for beyond its deadline."""
        done, open_items = queue.SimpleQueue(), {}
        context.add_callback(lambda: done.put(None))  # canceled, or at an end
        for item in request.items:
            instance = self.find(request.instances[item.instance]) if item.instance < len(request.instances) else None
            attempt = Attempt(item)
            if not instance or not instance.enter():
                yield response(attempt.result({"failure": closed().failure}))
                continue
            open_items[item.id] = attempt
            self.workers.submit(self.work, instance, attempt, done)
        try:
            while open_items:
                try:
                    wait = min(attempt.remaining() for attempt in open_items.values())
                    ended = done.get(timeout=max(0, wait))
                except queue.Empty:
                    for attempt in [one for one in open_items.values() if one.remaining() <= 0]:
                        attempt.give_up()
                        del open_items[attempt.item.id]
                        late = Failed("UNKNOWN_OUTCOME", "deadline", "the deadline passed before the answer came")
                        yield response(attempt.result({"failure": late.failure}))
                    continue
                if ended is None:
                    return
                attempt, outcome = ended
                if open_items.pop(attempt.item.id, None):
                    yield response(attempt.result(outcome))
        finally:
            for attempt in open_items.values():
                attempt.give_up()

    def work(self, instance, attempt, done):
        try:
            if attempt.remaining() <= 0:
                raise Failed("EXPIRED", "expired", "the deadline passed before the attempt began")
            outcome = {"success": instance.transport.deliver(attempt)}
        except Failed as e:
            outcome = {"failure": e.failure}
        except Exception as e:  # a mistake in one item must not end the others
            log("error", "an attempt raised an exception", error=type(e).__name__)
            outcome = {"failure": Failed("TRANSIENT", "exception", f"the plugin raised {type(e).__name__}").failure}
        finally:
            instance.leave()
        done.put((attempt, outcome))


def key(ref):
    return ref.id, ref.generation


def response(result):
    return pb.DeliverResponse(results=[result])


def closed():
    return Failed("TRANSIENT", "instance.closed", "the instance is not open")


def fail_closed():
    raise closed()


def credentials(client_certificate):
    """AutoMTLS: the daemon gives its one-time certificate in the environment and
    takes ours, DER in base64 without padding, from the handshake line. Ours may
    have any curve, but gRPC must be able to check the daemon's, which is P-521."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.utcnow()
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made = grpc.ssl_server_credentials(
        [(pem, certificate.public_bytes(serialization.Encoding.PEM))], client_certificate.encode(), require_client_auth=True
    )
    return made, base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode().rstrip("=")


def serve(server):
    """Runs the plugin until the daemon is gone."""
    d = server.describe
    if sys.argv[1:] == ["--describe"]:
        print(json_format.MessageToJson(d, preserving_proto_field_name=True))
        return
    if sys.argv[1:] == ["--version"]:
        print(d.name, d.version)
        return
    if os.environ.get("DELIVERYD_PLUGIN") != "5b0f3a61-transport-plugin-of-deliveryd":
        sys.exit(f"This is the transport plugin {d.name} {d.version} of deliveryd: it is started by the daemon, not by hand.")
    # A terminal's signals reach the whole process group, and a reload's HUP may,
    # too: only the lifeline ends a plugin.
    for one in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    handshake, sys.stdout = sys.stdout, sys.stderr  # nothing but the handshake may go there
    path = os.path.join(os.environ.get("PLUGIN_UNIX_SOCKET_DIR") or os.environ["TMPDIR"], "plugin.sock")
    grpc_server = grpc.server(
        futures.ThreadPoolExecutor(64),
        options=[("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)],
    )
    pb_grpc.add_TransportServicer_to_server(server, grpc_server)
    certificate = os.environ.get("PLUGIN_CLIENT_CERT")
    if certificate:
        made, ours = credentials(certificate)
        grpc_server.add_secure_port("unix:" + path, made)
    else:
        ours = ""
        grpc_server.add_insecure_port("unix:" + path)
    grpc_server.start()
    # go-plugin's protocol 1, our contract's version 1.
    print(f"1|1|unix|{path}|grpc|{ours}", file=handshake, flush=True)
    while sys.stdin.buffer.read(4096):
        pass  # standard input is the lifeline: its end means that the daemon is gone
    grpc_server.stop(GRACE).wait(GRACE)
    os._exit(0)  # not sys.exit: it would wait for threads
