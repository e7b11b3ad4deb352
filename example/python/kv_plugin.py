#!/usr/bin/env python3
"""A key-value plugin: the service example.KV, in Python, from PROTOCOL.md.

It needs the package `protobuf` (4.22 or later) and nothing else: the few messages are described
below, so that no protoc is involved.
"""

import os
import sys

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

HELLO, OPEN, MESSAGE, END, GOODBYE, IGNORABLE = 1, 2, 3, 4, 9, 64
LAST, HALF_CLOSE, NOT_STARTED = 1, 2, 4
INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 3, 5, 12, 13, 14
FRAGMENT, MAX_FRAME, MAX_TEXT = 256 << 10, 1 << 20, 64 << 10

SCHEMA = """
    Frame       kind=1:uint32 call=2:uint64 method=3:uint32 flags=6:uint32 total=7:uint64
                code=9:uint32 message=10:string payload=15:bytes
    Method      name=1:string
    Service     name=1:string methods=4:*Method
    Hello       version_min=1:uint32 version_max=2:uint32 name=3:string version=4:string
                runtime=5:string services=6:*Service required=10:*string
    GetRequest  key=1:string
    GetResponse value=1:bytes
    PutRequest  key=1:string value=2:bytes
    Empty
"""


def message_classes(schema):
    """The classes of the messages in a schema of fields `name=number:type`, `*` for repeated."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="kv_plugin.proto", package="kv", syntax="proto3")
    for word in schema.split():
        if "=" not in word:
            file.message_type.add(name=word)
            continue
        name, rest = word.split("=")
        number, kind = rest.split(":")
        field = file.message_type[-1].field.add(name=name, number=int(number))
        field.label = field_type.LABEL_REPEATED if kind[0] == "*" else field_type.LABEL_OPTIONAL
        kind = kind.lstrip("*")
        if kind[0].isupper():
            field.type, field.type_name = field_type.TYPE_MESSAGE, ".kv." + kind
        else:
            field.type = field_type.Type.Value("TYPE_" + kind.upper())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    names = [message.name for message in file.message_type]
    return [message_factory.GetMessageClass(find("kv." + name)) for name in names]


Frame, Method, Service, Hello, GetRequest, GetResponse, PutRequest, Empty = message_classes(SCHEMA)


class Failure(Exception):
    """What a handler raises to fail its call with a code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Store:
    """The plugin itself. Its methods are numbered in the order of METHODS."""

    METHODS = [("Get", GetRequest), ("Put", PutRequest)]

    def __init__(self):
        self.values = {}

    def Get(self, request):
        if request.key not in self.values:
            raise Failure(NOT_FOUND, f"no such key: {request.key}")
        return GetResponse(value=self.values[request.key])

    def Put(self, request):
        self.values[request.key] = request.value
        print(f"put {len(request.value)} bytes")  # Harmless: it goes to stderr.
        return Empty()


class Violation(Exception):
    """The host broke the protocol, or is not a host."""


class Connection:
    """The pipes to the host, and the calls whose requests are still arriving."""

    def __init__(self):
        # From here on nothing else in this process reads from the host or writes to it.
        self.input, self.output = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        self.arriving = {}  # call: [method, total, bytes]
        self.last_call = 0

    def read(self, length):
        data = self.input.read(length)
        if len(data) < length:
            raise EOFError
        return data

    def receive(self):
        """The next frame."""
        length, shift = 0, 0
        while True:
            (byte,) = self.read(1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 28:
                raise Violation("a length that never ends")
        if length > MAX_FRAME:
            raise Violation(f"a frame of {length} bytes")
        try:
            return Frame.FromString(self.read(length))
        except DecodeError as error:
            raise Violation(f"a frame that cannot be decoded: {error}") from error

    def send(self, **fields):
        frame = Frame(**fields).SerializeToString()
        length, prefix = len(frame), bytearray()
        while length >= 0x80:
            prefix.append(length & 0x7F | 0x80)
            length >>= 7
        prefix.append(length)
        self.output.write(prefix + frame)
        self.output.flush()

    def respond(self, call, response):
        total = len(response) if len(response) > FRAGMENT else 0
        while len(response) > FRAGMENT:
            self.send(kind=MESSAGE, call=call, total=total, payload=response[:FRAGMENT])
            response, total = response[FRAGMENT:], 0
        self.send(kind=END, call=call, flags=LAST, payload=response)

    def fail(self, call, code, text, flags=0):
        message = text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore")
        self.send(kind=END, call=call, code=code, message=message, flags=flags)

    def greet(self):
        if self.read(8) != b"\x89plugh\r\n":
            raise Violation("this is no host")
        frame = self.receive()
        while frame.kind == 0 or frame.kind >= IGNORABLE:
            frame = self.receive()
        if frame.kind != HELLO:
            raise Violation(f"its first frame is of kind {frame.kind}")
        host = Hello.FromString(frame.payload)
        methods = [Method(name=name) for name, _ in Store.METHODS]
        services = [Service(name="example.KV", methods=methods)]
        hello = Hello(version_min=1, version_max=1, name="kv_plugin.py", services=services)
        self.output.write(b"\x89plugp\r\n")
        self.send(kind=HELLO, payload=hello.SerializeToString())
        if not host.version_min <= 1 <= host.version_max or host.required:
            raise Violation(f"{host.name} needs a later version of the protocol than this plugin has")

    def open(self, frame):
        if frame.call % 2 == 0 or frame.call <= self.last_call:
            raise Violation(f"a call with the id {frame.call}")
        self.last_call = frame.call
        self.arriving[frame.call] = [frame.method, frame.total, b""]

    def gather(self, frame):
        """Adds a fragment. Returns the number of the method and the request if it was the last."""
        call = frame.call
        if call > self.last_call:
            raise Violation(f"a message for the call {call}")
        if call not in self.arriving:
            return None  # It was refused, and this was on its way.
        request = self.arriving[call]
        request[2] += frame.payload
        if not frame.flags & LAST:
            return None
        method, total, data = self.arriving.pop(call)
        if total not in (0, len(data)):
            raise Violation(f"{len(data)} bytes of a message of {total}")
        return method, data


def answer(connection, store, call, method, data):
    if not 1 <= method <= len(Store.METHODS):
        return connection.fail(call, UNIMPLEMENTED, f"no method {method}", NOT_STARTED)
    name, request_type = Store.METHODS[method - 1]
    try:
        request = request_type.FromString(data)
    except DecodeError as error:
        return connection.fail(call, INVALID_ARGUMENT, f"{name}: {error}", NOT_STARTED)
    try:
        response = getattr(store, name)(request)
    except Failure as failure:
        return connection.fail(call, failure.code, str(failure))
    except Exception as error:
        return connection.fail(call, INTERNAL, f"{type(error).__name__}: {error}")
    connection.respond(call, response.SerializeToString())


def serve(connection):
    """Answers calls until the host says goodbye and has what it asked for before."""
    store, leaving = Store(), False
    connection.greet()
    while not (leaving and not connection.arriving):
        frame = connection.receive()
        if frame.kind == OPEN:
            connection.open(frame)
            if leaving:
                del connection.arriving[frame.call]
                connection.fail(frame.call, UNAVAILABLE, "the plugin is stopping", NOT_STARTED)
        if frame.kind in (OPEN, MESSAGE):
            whole = connection.gather(frame)
            if whole:
                answer(connection, store, frame.call, *whole)
        elif frame.kind == GOODBYE:
            leaving = True
        elif 0 < frame.kind < IGNORABLE:
            raise Violation(f"a frame of kind {frame.kind}")


def main():
    if "PLUG_HOST" not in os.environ:
        print(
            "This is a plugin with the service example.KV. It is not run by hand: a host starts it,\n"
            'for instance with load_kv(plug::Command::new("python3").arg("kv_plugin.py")).',
            file=sys.stderr,
        )
        return 64
    try:
        serve(Connection())
    except (EOFError, BrokenPipeError):
        pass  # The host is gone.
    except (Violation, DecodeError) as violation:
        print(f"the host broke the protocol: {violation}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
