from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p import encoding
from stronghold_p2p.encoding import messages
from stronghold_p2p.errors import DecodeError

PROTO_FILES = sorted((Path(encoding.__file__).parent / "messages").glob("*.proto"))


@pytest.mark.parametrize("proto", PROTO_FILES, ids=lambda proto: proto.name)
def test_generated_code_is_up_to_date(proto: Path, tmp_path: Path) -> None:
    """By descriptors, not by text: the compiler at hand need not be the version that generated the committed code."""
    source = proto.parents[3]
    output = tmp_path / "descriptors"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source}", f"--descriptor_set_out={output}", str(proto)]
    subprocess.run(command, check=True)
    (compiled,) = FileDescriptorSet.FromString(output.read_bytes()).file
    for message in compiled.message_type:
        for field in [*message.field, *(field for nested in message.nested_type for field in nested.field)]:
            field.ClearField("json_name")  # the compiler leaves it out of the code that it generates

    generated = importlib.import_module(f"stronghold_p2p.encoding.messages.{proto.stem}_pb2")
    assert FileDescriptorProto.FromString(generated.DESCRIPTOR.serialized_pb) == compiled


def test_presence_is_kept() -> None:
    pushed = messages.parse(messages.Identify, messages.Identify(agentVersion="").SerializeToString(), "identify")
    assert pushed.HasField("agentVersion")
    assert not pushed.HasField("publicKey")


@pytest.mark.parametrize(
    ("message_type", "data"),
    [
        pytest.param(messages.Identify, b"\x0a\x05ab", id="cut off"),
        pytest.param(messages.Identify, b"\x1a\x02\xff\xfe", id="text that is not UTF-8"),
        pytest.param(messages.Identify, b"\x7b" * 1000, id="groups within groups"),
        pytest.param(messages.PublicKey, b"\x08\x01", id="no required field"),
        pytest.param(messages.PublicKey, b"\x08\x04\x12\x00", id="unknown key type"),
        pytest.param(messages.NoiseHandshakePayload, b"\x22\x04\x12\x02\xff\xfe", id="muxer that is not UTF-8"),
    ],
)
def test_malformed(message_type: type[messages.Identify], data: bytes) -> None:
    with pytest.raises(DecodeError) as raised:
        messages.parse(message_type, data, "a protocol")
    assert raised.value.protocol == "a protocol"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_one_error(data: bytes) -> None:
    try:
        identify = messages.parse(messages.Identify, data, "identify")
    except DecodeError:
        return
    assert all(isinstance(protocol, str) for protocol in identify.protocols)
