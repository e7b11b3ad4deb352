#!/bin/sh
# Regenerates everything generated that is checked in, with the protoc that comes with the tests and
# the generator that is built here. Installs nothing. Leaves `git diff` empty, unless something changed.
set -eu
cd "$(dirname "$0")"

# The well-known files, whose descriptors take the place of whatever a protoc brings along.
cargo run --quiet -p protoc-gen-plug --example protoc -- \
    --include_imports --descriptor_set_out=protoc-gen-plug/proto/google.descriptors \
    google/protobuf/any.proto google/protobuf/api.proto google/protobuf/descriptor.proto \
    google/protobuf/duration.proto google/protobuf/empty.proto google/protobuf/field_mask.proto \
    google/protobuf/source_context.proto google/protobuf/struct.proto \
    google/protobuf/timestamp.proto google/protobuf/type.proto google/protobuf/wrappers.proto

# The goldens.
UPDATE_GOLDENS=1 cargo test --quiet -p protoc-gen-plug --test golden \
    protoc_generates_the_goldens -- --exact

git diff --stat -- protoc-gen-plug
