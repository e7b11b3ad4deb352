#!/usr/bin/env python3
"""A key-value plugin: the service example.KV, in Python, from PROTOCOL.md.

It has Get, Put and Watch. If the host offers the service example.Audit, it is asked before a value
is stored, and told after that. The plugin has one thread, and needs the package `protobuf` (4.22 or
later) and nothing else: the few messages are described below, so that no protoc is involved.
"""

import os
import sys
from collections import deque

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

HELLO, OPEN, MESSAGE, END, CANCEL, CREDIT, GOODBYE, IGNORABLE = 1, 2, 3, 4, 5, 6, 9, 64
LAST, HALF_CLOSE, NOT_STARTED = 1, 2, 4
CANCELLED, INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 1, 3, 5, 7, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14
FRAGMENT, MAX_FRAME, MAX_TEXT, MAX_MESSAGE = 256 << 10, 1 << 20, 64 << 10, 64 << 20
FEATURES = {"streams", "credit", "cancel", "within"}
FRAME_COST = 16  # What a frame of a stream costs besides its payload.

SCHEMA = """
    Frame        kind=1:uint32 call=2:uint64 method=3:uint32 within=5:uint64 flags=6:uint32
                 total=7:uint64 credit=8:uint64 code=9:uint32 message=10:string payload=15:bytes
    Method       name=1:string streams_responses=3:bool
    Service      name=1:string magic=2:string version=3:uint32 methods=4:*Method
    Hello        version_min=1:uint32 version_max=2:uint32 name=3:string version=4:string
                 runtime=5:string services=6:*Service max_message=7:uint64 max_calls=8:uint32
                 features=9:*string required=10:*string stream_window=11:uint64
                 connection_window=12:uint64
    GetRequest   key=1:string
    GetResponse  value=1:bytes
    PutRequest   key=1:string value=2:bytes
    WatchRequest prefix=1:string
    Event        key=1:string value=2:bytes existing=3:bool
    Empty
    Change       key=1:string size=2:uint64
    Decision     allowed=1:bool reason=2:string
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


(
    Frame, Method, Service, Hello, GetRequest, GetResponse, PutRequest, WatchRequest, Event, Empty,
    Change, Decision,
) = message_classes(SCHEMA)


class Failure(Exception):
    """What a handler raises to fail its call with a code. A failed call to the host raises it too."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Store:
    """The plugin itself. Its methods are numbered in the order of METHODS."""

    METHODS = [("Get", GetRequest), ("Put", PutRequest), ("Watch", WatchRequest)]
    STREAMS = ["Watch"]  # They come last, since a host without streams is not told of them.
    BACKLOG = 1024  # How many changes are kept for a watcher that is slow.

    def __init__(self, connection):
        self.connection = connection
        self.values = {}
        self.watchers = []  # (prefix, stream)

    def Get(self, request, _):
        if request.key not in self.values:
            raise Failure(NOT_FOUND, f"no such key: {request.key}")
        return GetResponse(value=self.values[request.key])

    def Put(self, request, call):
        if len(request.key.encode()) > 255:
            raise Failure(INVALID_ARGUMENT, "the key is longer than 255 bytes")
        change = Change(key=request.key, size=len(request.value))
        ask = self.connection.host_method("example.Audit", "Allow")
        if ask:
            decision = Decision.FromString(self.connection.call(ask, change, call))
            if not decision.allowed:
                raise Failure(PERMISSION_DENIED, decision.reason)
        self.values[request.key] = request.value
        print(f"put {len(request.value)} bytes")  # Harmless: it goes to stderr.
        self.report(Event(key=request.key, value=request.value))
        tell = self.connection.host_method("example.Audit", "Record")
        if tell:
            self.connection.open(tell, change)  # It is one-way: nobody waits for its end.
        return Empty()

    def Watch(self, request, stream):
        for key in sorted(self.values):
            if key.startswith(request.prefix) and stream.is_open:
                stream.send(Event(key=key, value=self.values[key], existing=True))
        self.watchers.append((request.prefix, stream))

    def report(self, event):
        self.watchers = [watcher for watcher in self.watchers if watcher[1].is_open]
        for prefix, stream in self.watchers:
            if event.key.startswith(prefix):
                stream.send(event)
                if stream.is_open and len(stream.messages) > self.BACKLOG:
                    stream.fail(RESOURCE_EXHAUSTED, "the reader is too far behind: watch again")


class Violation(Exception):
    """The host broke the protocol, or is not a host."""


class Call:
    """A call of the host, or one to the host, and what of its message has arrived."""

    def __init__(self, number, method, within):
        self.number, self.method, self.within = number, method, within
        self.total, self.data, self.is_whole = 0, bytearray(), False
        self.granted = 0  # How much of a long response the host takes.
        self.cancelled = False
        self.end = None  # The frame that ended a call to the host.

    def take(self, frame):
        """Adds a fragment. Returns whether it was the last."""
        self.total = self.total or frame.total
        self.data += frame.payload
        if max(self.total, len(self.data)) > MAX_MESSAGE:
            raise Violation(f"a message of {self.total} bytes")
        if not frame.flags & LAST:
            return False
        if self.total not in (0, len(self.data)):
            raise Violation(f"{len(self.data)} bytes of a message of {self.total}")
        self.is_whole = True
        return True


class Stream:
    """The responses of a call of the host. They are sent as far as the host has granted room."""

    def __init__(self, connection, call):
        self.connection, self.call, self.is_open = connection, call, True
        self.messages, self.done = deque(), 0  # `done` bytes of the first message are sent.
        self.sent, self.granted = 0, connection.host.stream_window

    def send(self, message):
        message = message.SerializeToString()
        if self.connection.is_too_long(message):
            return self.fail(RESOURCE_EXHAUSTED, "the message is longer than the host takes")
        self.messages.append(message)
        self.flush()

    def flush(self):
        connection = self.connection
        while self.messages:
            message = self.messages[0]
            left = len(message) - self.done
            room = min(self.granted - self.sent, connection.granted - connection.sent) - FRAME_COST
            if room < min(left, 1):
                return
            length = min(left, room, FRAGMENT)
            is_last = length == left
            total = 0 if self.done or is_last else len(message)
            payload = message[self.done : self.done + length]
            flags = LAST if is_last else 0
            connection.send(kind=MESSAGE, call=self.call, flags=flags, total=total, payload=payload)
            self.sent += length + FRAME_COST
            connection.sent += length + FRAME_COST
            self.done += length
            if is_last:
                self.messages.popleft()
                self.done = 0

    def fail(self, code, text):
        self.is_open = False
        del self.connection.streams[self.call]
        self.connection.fail(self.call, code, text)


class Connection:
    """The pipes to the host, and the calls both ways."""

    def __init__(self):
        # From here on nothing else in this process reads from the host or writes to it.
        self.input, self.output = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        self.calls, self.last_call = {}, 0  # Calls of the host that have not ended.
        self.ready = deque()  # Those whose request is whole, and whose handler has not run.
        self.streams = {}  # Those that are answered by a stream.
        self.host_calls, self.last_host_call = {}, 0  # Calls to the host that have not ended.
        self.sent = 0  # What all streams together have sent; `granted` is what they may.
        self.leaving = False

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

    def greet(self):
        if self.read(8) != b"\x89plugh\r\n":
            raise Violation("this is no host")
        frame = self.receive()
        while frame.kind == 0 or frame.kind >= IGNORABLE:
            frame = self.receive()
        if frame.kind != HELLO:
            raise Violation(f"its first frame is of kind {frame.kind}")
        self.host = host = Hello.FromString(frame.payload)
        self.features = FEATURES & set(host.features)
        self.granted = host.connection_window
        streaming = {"streams", "credit"} <= self.features
        names = [name for name, _ in Store.METHODS if streaming or name not in Store.STREAMS]
        methods = [Method(name=name, streams_responses=name in Store.STREAMS) for name in names]
        hello = Hello(version_min=1, version_max=1, name="kv_plugin.py", max_message=MAX_MESSAGE)
        hello.services.add(name="example.KV", methods=methods)
        hello.features.extend(sorted(FEATURES))
        # For the streams that this plugin receives. It has no method with one.
        hello.stream_window = hello.connection_window = FRAGMENT
        self.output.write(b"\x89plugp\r\n")
        self.send(kind=HELLO, payload=hello.SerializeToString())
        missing = set(host.required) - FEATURES
        if missing or not host.version_min <= 1 <= host.version_max:
            raise Violation(f"{host.name} needs a later version of the protocol than this plugin's")

    # Calls to the host.

    def host_method(self, service_name, method_name):
        """The number of a method of the host, or None if it does not offer it."""
        number = 0
        for service in self.host.services:
            is_it = (service.name, service.magic, service.version) == (service_name, "", 0)
            for method in service.methods:
                number += 1
                if is_it and method.name == method_name:
                    return number
        return None

    def open(self, method, request, within=0):
        """Calls the host, and does not wait for the end."""
        while self.host.max_calls and len(self.host_calls) >= self.host.max_calls:
            self.handle(self.receive())
        if self.leaving:
            raise Failure(UNAVAILABLE, "the host takes no more calls")
        self.last_host_call += 2
        call = self.host_calls[self.last_host_call] = Call(self.last_host_call, method, within)
        within = within if "within" in self.features else 0
        flags, payload = LAST | HALF_CLOSE, request.SerializeToString()
        number = self.last_host_call
        self.send(kind=OPEN, call=number, method=method, within=within, flags=flags, payload=payload)
        return call

    def call(self, method, request, within):
        """Calls the host from the handler of the call `within`. Returns the response.

        Meanwhile the host may ask something because it was called: that is answered at once, or
        both would wait for ever. Whatever else it asks waits in `ready`.
        """
        call = self.open(method, request, within)
        while not call.end:
            nested = next((ready for ready in self.ready if ready.within in self.host_calls), None)
            if nested:
                self.ready.remove(nested)
                self.answer(nested)
            else:
                self.handle(self.receive())
        if call.end.code:
            raise Failure(call.end.code, call.end.message)
        return bytes(call.data)

    # What the host sends. None of this runs a handler.

    def handle(self, frame):
        if frame.kind == OPEN:
            self.take_open(frame)
        if frame.kind in (OPEN, MESSAGE):
            self.take_fragment(frame)
        elif frame.kind == END:
            self.take_end(frame)
        elif frame.kind == CANCEL and "cancel" in self.features:
            self.take_cancel(frame.call)
        elif frame.kind == CREDIT and "credit" in self.features:
            self.take_credit(frame)
        elif frame.kind == GOODBYE:
            self.leaving = True
        elif 0 < frame.kind < IGNORABLE:
            raise Violation(f"a frame of kind {frame.kind}")

    def take_open(self, frame):
        if frame.call % 2 == 0 or frame.call <= self.last_call:
            raise Violation(f"a call with the id {frame.call}")
        self.last_call = frame.call
        self.calls[frame.call] = Call(frame.call, frame.method, frame.within)
        if self.leaving:
            self.fail(frame.call, UNAVAILABLE, "the plugin is stopping", NOT_STARTED)

    def take_fragment(self, frame):
        """A fragment of a request, or of a response if the call is to the host."""
        is_ours = frame.call % 2 == 0
        if not (frame.call in self.host_calls if is_ours else frame.call <= self.last_call):
            raise Violation(f"a message for the call {frame.call}")
        call = (self.host_calls if is_ours else self.calls).get(frame.call)
        if not call:
            return  # It was refused or cancelled, and this was on its way.
        if call.is_whole or is_ours and frame.flags & LAST:
            raise Violation(f"a message too many for the call {frame.call}")
        if call.take(frame):
            self.ready.append(call)
        elif frame.total and "credit" in self.features:
            # The rest may come, all of it.
            self.send(kind=CREDIT, call=frame.call, credit=frame.total)

    def take_end(self, frame):
        call = self.host_calls.pop(frame.call, None)
        if not call:
            raise Violation(f"an end for the call {frame.call}")
        call.end = frame
        if not frame.code and not call.take(frame):
            raise Violation(f"an end without a response for the call {frame.call}")

    def take_cancel(self, number):
        call = self.calls.get(number)
        if not call:
            return  # It has ended.
        call.cancelled = True
        if number in self.streams:
            self.streams[number].fail(CANCELLED, "the host cancelled the call")
        elif not call.is_whole:
            self.fail(number, CANCELLED, "the host cancelled the call", NOT_STARTED)
        for host_call in self.host_calls.values():
            if host_call.within == number:
                self.send(kind=CANCEL, call=host_call.number)

    def take_credit(self, frame):
        if frame.call == 0:
            self.granted = frame.credit
        elif frame.call in self.streams:
            self.streams[frame.call].granted = frame.credit
        elif frame.call in self.calls:
            self.calls[frame.call].granted = frame.credit
        for stream in self.streams.values():
            stream.flush()

    # What the host is answered.

    def end(self, call, **fields):
        del self.calls[call]
        self.send(kind=END, call=call, **fields)

    def fail(self, call, code, text, flags=0):
        message = text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore")
        self.end(call, code=code, message=message, flags=flags)

    def is_too_long(self, message):
        return 0 < self.host.max_message < len(message)

    def respond(self, call, response):
        """Sends the response of a call that is no stream. A long one must be granted, all of it."""
        if self.is_too_long(response):
            text = "the response is longer than the host takes"
            return self.fail(call.number, RESOURCE_EXHAUSTED, text)
        total = len(response) if len(response) > FRAGMENT else 0
        while len(response) > FRAGMENT:
            self.send(kind=MESSAGE, call=call.number, total=total, payload=response[:FRAGMENT])
            response = response[FRAGMENT:]
            while "credit" in self.features and call.granted < total and not call.cancelled:
                self.handle(self.receive())
            if call.cancelled:
                return self.fail(call.number, CANCELLED, "the host cancelled the call")
            total = 0
        self.end(call.number, flags=LAST, payload=response)

    def answer(self, call):
        """Runs the handler of a call."""
        number = call.number
        if call.cancelled:
            return self.fail(number, CANCELLED, "the host cancelled the call", NOT_STARTED)
        if not 1 <= call.method <= len(Store.METHODS):
            return self.fail(number, UNIMPLEMENTED, f"no method {call.method}", NOT_STARTED)
        name, request_type = Store.METHODS[call.method - 1]
        try:
            request = request_type.FromString(bytes(call.data))
        except DecodeError as error:
            return self.fail(number, INVALID_ARGUMENT, f"{name}: {error}", NOT_STARTED)
        handler = getattr(self.store, name)
        if name in Store.STREAMS:
            self.streams[number] = Stream(self, number)
            return handler(request, self.streams[number])
        try:
            response = handler(request, number).SerializeToString()
        except Failure as failure:
            return self.fail(number, failure.code, str(failure))
        except (Violation, EOFError, BrokenPipeError):
            raise
        except Exception as error:
            return self.fail(number, INTERNAL, f"{type(error).__name__}: {error}")
        self.respond(call, response)

    def serve(self):
        """Answers calls until the host says goodbye and has what it asked for before."""
        self.greet()
        self.store = Store(self)
        while not self.leaving or len(self.calls) > len(self.streams):
            if self.ready:
                self.answer(self.ready.popleft())
            else:
                self.handle(self.receive())
        for stream in list(self.streams.values()):
            stream.fail(UNAVAILABLE, "the plugin is stopping")


def main():
    if "PLUG_HOST" not in os.environ:
        print(
            "This is a plugin with the service example.KV. It is not run by hand: a host starts it,\n"
            'for instance with load_kv(plug::Command::new("python3").arg("kv_plugin.py")).',
            file=sys.stderr,
        )
        return 64
    try:
        Connection().serve()
    except (EOFError, BrokenPipeError):
        pass  # The host is gone.
    except (Violation, DecodeError) as violation:
        print(f"the host broke the protocol: {violation}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
