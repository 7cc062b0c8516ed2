# ruff: noqa: D205 - a docstring is the paragraph of the reference, and its first words are the sentence
"""Cases about identity, configuration and sessions (ID, CF, SE)."""

import itertools
import json

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hermes_proto.common.v1 import diagnostic_pb2
from hermes_proto.hw.v1 import hardware_model_pb2 as pb

from hermes_hw.client import SERVICE, CallFailed, GrpcTransport, ServiceError
from hermes_hw.client.description import checked_description
from hermes_hw.conformance.case import Kit, Skipped, Violation

_UNKNOWN_KEY = "hermes-conformance-no-such-key"
_CODE = grpc.StatusCode


def says_who_it_is(kit: Kit) -> None:
    """Describe answers with vendor, model, version and a fingerprint that is not empty, with at least one of the
    capabilities operator and step, with names of at most 128 printable bytes, and figures that are finite and not
    negative.
    """
    try:
        message = kit.service.transport.call("Describe", pb.DescribeRequest(), 10.0)
        checked_description(kit.target.name, message)
    except ServiceError as error:
        raise Violation(error.problem) from None
    for name in ("vendor", "model", "version"):
        if not getattr(message, name):
            raise Violation(f"{name} is empty")


def describes_itself_alike(kit: Kit) -> None:
    """Describe has no side effects: asked three times, also beside an open session, it says the same."""
    first = kit.call("Describe", pb.DescribeRequest())
    session = kit.opened()
    for _ in range(2):
        if kit.call("Describe", pb.DescribeRequest()) != first:
            raise Violation("asked again, Describe says something else")
    kit.close_session(session)


def describes_itself_fast(kit: Kit) -> None:
    """Describe answers within a second: hosts ask it before anything else, tools in passing."""
    kit.alive()
    try:
        kit.service.transport.call("Describe", pb.DescribeRequest(), 1.0)
    except CallFailed as failed:
        raise Violation(f"Describe within a second: {failed.code.name}") from None


def fingerprint_survives_a_restart(kit: Kit) -> None:
    """The fingerprint changes when an answer could change, and at no other time: after a restart of the same service
    it is the same, else nothing that was remembered could be used. Needs the service's command.
    """
    before = kit.description.fingerprint
    kit.restarted()
    if kit.description.fingerprint != before:
        raise Violation(f"fingerprint {before!r} before the restart, {kit.description.fingerprint!r} after")


def says_that_it_serves(kit: Kit) -> None:
    """grpc.health.v1 answers SERVING for the service hermes.hw.v1.HardwareModelService: hosts wait for that."""
    transport = kit.service.transport
    if not isinstance(transport, GrpcTransport):
        raise Skipped("a service in this process has no health service")
    try:
        ask = health_pb2.HealthCheckRequest(service=SERVICE)
        answer = health_pb2_grpc.HealthStub(transport.channel).Check(ask, timeout=10.0)
    except grpc.RpcError as error:
        raise Violation(f"grpc.health.v1 fails for {SERVICE}: {error.code().name}") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Violation(f"health of {SERVICE} is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")


def ignores_unknown_features(kit: Kit) -> None:
    """A name in host_features that the service does not know changes nothing: that is how the protocol grows."""
    known = kit.call("Describe", pb.DescribeRequest())
    asked = kit.call("Describe", pb.DescribeRequest(host_features=["vendor.example/unheard-of"]))
    if asked != known:
        raise Violation("an unknown host feature changes what Describe says")


def has_a_schema(kit: Kit) -> None:
    """config_schema_json is a JSON Schema object: hosts check configurations with it and show it. Where the library
    jsonschema is installed the schema itself is checked.
    """
    text = kit.call("Describe", pb.DescribeRequest()).config_schema_json
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        raise Violation(f"config_schema_json is not JSON: {error}") from None
    if not isinstance(schema, dict) or not isinstance(schema.get("type", "object"), str | list):
        raise Violation("config_schema_json is no JSON Schema of an object")
    if schema.get("type", "object") != "object":
        raise Violation(f"config_schema_json describes {schema['type']!r}, not an object")


def takes_the_empty_configuration(kit: Kit) -> None:
    """Everything has a default: the configuration {} is valid, and a session opens with it."""
    answer = kit.call("ValidateConfig", pb.ValidateConfigRequest(config_json="{}"))
    wrong = [item.summary for item in answer.diagnostics if item.severity == diagnostic_pb2.SEVERITY_ERROR]
    if wrong:
        raise Violation(f"{{}} is refused: {wrong[0]}")
    kit.close_session(kit.opened())


def points_at_a_bad_key(kit: Kit) -> None:
    """ValidateConfig answers a key that does not exist with an error whose path is the JSON pointer of that key.
    Skipped when the schema allows further keys.
    """
    schema = kit.description.config_schema
    if schema.get("additionalProperties", True) is not False:
        raise Skipped("the schema allows keys that it does not name")
    text = json.dumps({_UNKNOWN_KEY: 1})
    answer = kit.call("ValidateConfig", pb.ValidateConfigRequest(config_json=text))
    errors = [item for item in answer.diagnostics if item.severity == diagnostic_pb2.SEVERITY_ERROR]
    if not errors:
        raise Violation("a key that does not exist is accepted")
    if all(item.path != f"/{_UNKNOWN_KEY}" for item in errors):
        raise Violation(f"the path of the error is {errors[0].path!r}, not '/{_UNKNOWN_KEY}'")


def refuses_what_is_not_json(kit: Kit) -> None:
    """A configuration that is not JSON is an error of ValidateConfig's answer, not a failed call."""
    answer = kit.call("ValidateConfig", pb.ValidateConfigRequest(config_json="{not json"))
    if all(item.severity != diagnostic_pb2.SEVERITY_ERROR for item in answer.diagnostics):
        raise Violation("text that is not JSON is accepted")


def opens_with_sound_configurations_only(kit: Kit) -> None:
    """OpenSession with a configuration that ValidateConfig refuses ends with INVALID_ARGUMENT."""
    kit.fails("OpenSession", kit.open_request(kit.name(), config="{not json"), _CODE.INVALID_ARGUMENT)


def validating_opens_nothing(kit: Kit) -> None:
    """ValidateConfig allocates nothing: after a thousand calls a session still opens, whatever max_sessions is."""
    for _ in range(1000):
        kit.call("ValidateConfig", pb.ValidateConfigRequest(config_json="{}"))
    kit.close_session(kit.opened())


def opens_twice_alike(kit: Kit) -> None:
    """Opening a session again with equal content is no error and changes nothing: hosts repeat calls whose answer
    was lost.
    """
    request = kit.open_request(kit.name(), operators=kit.keys)
    first = kit.call("OpenSession", request)
    second = kit.call("OpenSession", request)
    kit.close_session(request.session_id)
    if first.session_fingerprint != second.session_fingerprint:
        raise Violation("opened again with equal content, the session has another fingerprint")


def refuses_other_content(kit: Kit) -> None:
    """Opening a session again with other content is refused with INVALID_ARGUMENT or ALREADY_EXISTS: two hosts have
    chosen the same name.
    """
    request = kit.open_request(kit.name(), operators=kit.keys, seed=1)
    kit.call("OpenSession", request)
    request.seed = 2
    kit.fails("OpenSession", request, _CODE.INVALID_ARGUMENT, _CODE.ALREADY_EXISTS)
    kit.close_session(request.session_id)


def knows_no_unopened_session(kit: Kit) -> None:
    """Estimate in a session that was not opened ends with FAILED_PRECONDITION; the host then opens it and repeats."""
    kit.fails("Estimate", pb.EstimateRequest(session_id=kit.name()), _CODE.FAILED_PRECONDITION)


def closes_what_is_closed(kit: Kit) -> None:
    """Closing a session that is closed, or was never opened, succeeds."""
    name = kit.opened()
    for _ in range(2):
        kit.close_session(name)
    kit.close_session(kit.name())


def forgets_a_closed_session(kit: Kit) -> None:
    """Estimate in a session that was closed ends with FAILED_PRECONDITION."""
    name = kit.opened()
    kit.close_session(name)
    kit.fails("Estimate", pb.EstimateRequest(session_id=name), _CODE.FAILED_PRECONDITION)


def keeps_sessions_apart(kit: Kit) -> None:
    """Sessions stand side by side: closing one leaves the other as it was. Skipped when max_sessions is 1."""
    if kit.description.max_sessions == 1:
        raise Skipped("the service holds one session")
    for asker in kit.askers:
        one, other = asker.open(), asker.open()
        questions = asker.draw(8)
        before = kit.prices(asker, other, questions)
        kit.close_session(one)
        after = kit.prices(asker, other, questions)
        kit.close_session(other)
        if kit.description.determinism != "none" and before != after:
            raise Violation(f"{asker.name}: closing a session changes the answers of another")


def names_sessions_by_content(kit: Kit) -> None:
    """The session fingerprint is not empty, equal for equal content, and another for another fingerprint of the
    service or configuration: answers are remembered under it.
    """
    found = []
    for _ in range(2):
        request = kit.open_request(kit.name(), operators=kit.keys)
        found.append(kit.call("OpenSession", request).session_fingerprint)
        kit.close_session(request.session_id)
    if not found[0]:
        raise Violation("the session fingerprint is empty")
    if found[0] != found[1]:
        raise Violation("two sessions of equal content have different fingerprints")


def opens_as_many_as_it_says(kit: Kit) -> None:
    """As many sessions open as max_sessions says; one more is refused with RESOURCE_EXHAUSTED (with RetryInfo, so that
    hosts wait). Skipped when there is no limit, or one above 512.
    """
    most = kit.description.max_sessions
    if not 0 < most <= 512:  # noqa: PLR2004 - said above
        raise Skipped("the service declares no limit of at most 512 sessions")
    opened: list[str] = []
    try:
        for _ in itertools.repeat(None, most):
            opened.append(kit.opened())  # noqa: PERF401 - what was opened before a failure is closed below
        kit.fails("OpenSession", kit.open_request(kit.name()), _CODE.RESOURCE_EXHAUSTED)
    finally:
        for name in opened:
            kit.close_session(name)
