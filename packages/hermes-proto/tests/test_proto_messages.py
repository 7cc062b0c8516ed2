"""What every schema promises, checked on the generated code as it is installed."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys

import hermes_proto
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(hermes_proto.__path__, "hermes_proto.")
    if module.name.endswith("_pb2")
)
FILES: list[FileDescriptor] = [importlib.import_module(name).DESCRIPTOR for name in MODULES]


def nested(message: Descriptor) -> list[Descriptor]:
    return [message, *(each for inner in message.nested_types for each in nested(inner))]


MESSAGES = [
    each
    for file in FILES
    for message in file.message_types_by_name.values()
    for each in nested(message)
    if not each.GetOptions().map_entry
]

# A few characters of every UTF-8 length: the whole of Unicode takes Hypothesis a second to tabulate.
TEXT = st.text(st.sampled_from('a0"\n é漢🙂'), max_size=9)
SCALARS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(allow_nan=False, width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def single(field: FieldDescriptor, depth: int) -> st.SearchStrategy:
    """Return values for one element of a field."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return contents(field.message_type, depth - 1)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.binary(max_size=9) if field.type == FieldDescriptor.TYPE_BYTES else TEXT
    return SCALARS[field.cpp_type]


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@st.composite
def contents(draw: st.DrawFn, descriptor: Descriptor, depth: int = 2) -> Message:
    """Draw a message with some of its fields set, at most `depth` messages deep."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if (field.message_type is not None and depth <= 0) or not draw(st.booleans()):
            continue
        if is_map(field):
            parts = field.message_type.fields_by_name
            keys = draw(st.lists(single(parts["key"], depth), max_size=2))
            for key in keys:
                if parts["value"].message_type is None:
                    getattr(message, field.name)[key] = draw(single(parts["value"], depth))
                else:
                    getattr(message, field.name)[key].CopyFrom(draw(single(parts["value"], depth)))
        elif hasattr(getattr(message, field.name), "extend"):  # protobuf 5 and 7 have no common name for "repeated"
            getattr(message, field.name).extend(draw(st.lists(single(field, depth), max_size=2)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(single(field, depth)))
        else:
            setattr(message, field.name, draw(single(field, depth)))
    return message


@pytest.mark.parametrize("descriptor", MESSAGES, ids=lambda each: each.full_name)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_messages_survive_the_wire_and_json(descriptor, data):
    message = data.draw(contents(descriptor))
    assert type(message).FromString(message.SerializeToString()) == message
    assert json_format.Parse(json_format.MessageToJson(message), type(message)()) == message


def test_all_five_schemas_are_there():
    names = {file.package for file in FILES}
    assert names == {f"hermes.{part}.v1" for part in ("common", "workload", "core", "hw", "analysis")}


@pytest.mark.parametrize("file", FILES, ids=lambda each: each.name)
def test_the_wire_package_is_the_folder(file):
    assert "hermes." + ".".join(file.name.split("/")[1:-1]) == file.package


@pytest.mark.parametrize("file", FILES, ids=lambda each: each.name)
def test_schemas_import_no_foreign_schema(file):
    """A foreign import would make its package a requirement of everybody who reads a message."""
    assert [other.name for other in file.dependencies if not other.name.startswith("hermes_proto/")] == []


@pytest.mark.parametrize("file", FILES, ids=lambda each: each.name)
def test_schemas_stand_in_layers(file):
    """The common schema stands on nothing; no other stands on analysis."""
    imported = {other.package for other in file.dependencies}
    if file.package == "hermes.common.v1":
        assert imported <= {"hermes.common.v1"}
    if file.package != "hermes.analysis.v1":
        assert "hermes.analysis.v1" not in imported


UNITS = re.compile(r"_(ns|ps|fs|s|bytes|tokens|j|nj|w|usd|bytes_per_s|flop|flops|flops_per_s|hz|fraction|ratio|share)$")


def test_quantities_with_a_dimension_say_their_unit():
    """A number called latency, duration, energy, power, bandwidth or memory carries its unit in its name."""
    dimension = re.compile(r"(^|_)(latency|duration|energy|power|bandwidth|memory|price|time)(_|$)")
    numbers = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
    fields = [field for message in MESSAGES for field in message.fields if field.cpp_type in numbers]
    assert fields
    bare = [
        field.full_name
        for field in fields
        if dimension.search(field.name) and not UNITS.search(field.name) and "per_" not in field.name
    ]
    assert bare == []


def test_messages_need_protobuf_and_nothing_else():
    """Whoever reads a message need not install, nor load, gRPC or NumPy."""
    code = f"import importlib, json, sys; [importlib.import_module(name) for name in {MODULES!r}]; "
    code += "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "hermes_proto" in loaded
    assert loaded & {"grpc", "numpy", "hermes_core", "hermes_hw", "hermes_workload", "hermes_analysis"} == set()


def test_the_service_is_the_one_vendors_implement():
    pytest.importorskip("grpc", reason="needs the extra hermes-proto[grpc]")
    from hermes_proto.hw.v1 import hardware_model_pb2, hardware_model_pb2_grpc  # noqa: PLC0415

    service = hardware_model_pb2.DESCRIPTOR.services_by_name["HardwareModelService"]
    assert service.full_name == "hermes.hw.v1.HardwareModelService"
    methods = [method.name for method in service.methods]
    assert {"Describe", "ValidateConfig", "OpenSession", "Estimate", "ExportTable", "CloseSession"} <= set(methods)
    assert all(callable(getattr(hardware_model_pb2_grpc.HardwareModelServiceServicer, name)) for name in methods)
