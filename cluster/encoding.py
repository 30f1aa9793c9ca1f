"""Arguments and results of tasks as bytes: encoded by the client, decoded by the executor child, and back.

A body is msgpack of `[args, kwargs]`, a result is msgpack of the value. Decoding happens in two steps. The
first gives plain values (None, bool, int, float, str, bytes, list, dict, datetime); the second converts only
those whose annotation asks for something else, so a function of plain arguments pays for the first step
alone. What an annotation asks for is worked out once per function. An annotation that cannot be resolved, or
names a type that cannot travel, converts nothing: the value arrives plain.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from cluster.dependencies import Outcome, References, Values
from cluster.errors import BodyTooLarge, DependencyError, EncodeError
from cluster.state.commands import BODY_BYTES_MAX
from cluster.state.inputs import INPUTS_MARK, Inputs

NONE_BODY = b"\xc0"

_encoder = msgspec.msgpack.Encoder()
_known = Values([], [])         # of bodies that need nothing: they may have outcomes that their client knew
_decoder = msgspec.msgpack.Decoder(ext_hook=_known.look_up)
_encode = _encoder.encode
_decode = _decoder.decode
_decode_inputs = msgspec.msgpack.Decoder(Inputs).decode
_PLAIN = (bytes, datetime)      # what a decoder gives besides the types of JSON

_ANYTHING = [inspect.Parameter.empty, Any, object]      # a list: an annotation may be unhashable


class DecodeError(EncodeError):
    """A body does not fit the function's annotations; the message says where."""


class Codec:
    """How the arguments and the result of one function travel."""

    def __init__(self, name: str, function: Callable[..., object]) -> None:
        self.name = name
        self._signature = signature = _signature(function)
        hints = _hints(function, signature)
        self._positional: list[object] = []
        self._named: dict[str, object] = {}
        self._rest: object = None                  # annotation of *args
        self._keywords: object = None              # annotation of **kwargs
        required = 0
        for parameter in signature.parameters.values():
            wanted = hints.get(parameter.name)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._rest = wanted
            elif parameter.kind is parameter.VAR_KEYWORD:
                self._keywords = wanted
            else:
                if parameter.kind is not parameter.KEYWORD_ONLY:
                    self._positional.append(wanted)
                if parameter.kind is not parameter.POSITIONAL_ONLY:
                    self._named[parameter.name] = wanted
                if parameter.default is parameter.empty:
                    required += 1
        # Calls with positional arguments only, which need no look at the signature beyond their number.
        keyword_required = any(
            p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in signature.parameters.values()
        )
        self._count_max = -1 if keyword_required else len(self._positional)
        self._count_min = required
        self._converts = any(
            wanted is not None
            for wanted in (*self._positional, *self._named.values(), self._rest, self._keywords)
        )
        result = hints.get("return")
        self._result: msgspec.msgpack.Decoder[Any] = (
            _decoder if result is None else msgspec.msgpack.Decoder(result)
        )

    def encode_arguments(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """The body of a call. Raises TypeError (does not fit the signature), EncodeError, also for handles, and
        BodyTooLarge."""
        return self._encode(args, kwargs, None)

    def encode_call(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[bytes, References | None]:
        """The body of a call, and what handles in it refer to. Raises as `encode_arguments`, and DependencyError."""
        try:
            return self._encode(args, kwargs, None), None
        except EncodeError:
            references = References()
            body = self._encode(args, kwargs, msgspec.msgpack.Encoder(enc_hook=references.refer).encode)
            return body, references

    def _encode(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], encode: Callable[[object], bytes] | None
    ) -> bytes:
        encode = encode or _encode
        if kwargs or not self._count_min <= len(args) <= self._count_max:
            self._signature.bind(*args, **kwargs)
        try:
            body = encode((args, kwargs))
        except DependencyError:
            raise
        except Exception as error:
            raise self._unencodable(args, kwargs, encode) from error
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLarge(f"arguments of {self.name}", len(body), BODY_BYTES_MAX)
        return body

    def decode_arguments(self, body: bytes) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, converted to the function's annotations. Raises DecodeError, and DependencyFailed
        for a result that it needs and that is gone."""
        try:
            if body[:1] == INPUTS_MARK:
                inputs = _decode_inputs(body)
                values = Values(inputs.results, inputs.outcomes)
                args, kwargs = msgspec.msgpack.decode(inputs.body, ext_hook=values.look_up)
                has_outcomes = values.has_outcomes
            else:
                args, kwargs = _decode(body)
                has_outcomes = _known.has_outcomes
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            raise DecodeError(f"arguments of {self.name}: {error}") from error
        if self._converts:
            positional = self._positional
            for index, value in enumerate(args):
                wanted = positional[index] if index < len(positional) else self._rest
                if wanted is not None and type(value) is not wanted:
                    args[index] = self._convert(value, wanted, f"argument {index + 1}", has_outcomes)
            for key, value in kwargs.items():
                wanted = self._named.get(key, self._keywords)
                if wanted is not None and type(value) is not wanted:
                    kwargs[key] = self._convert(value, wanted, f'argument "{key}"', has_outcomes)
        return args, kwargs

    def encode_result(self, value: object) -> bytes:
        """The body of a result. Raises EncodeError and BodyTooLarge."""
        if value is None:
            return NONE_BODY
        try:
            body = _encode(value)
        except Exception as error:
            raise EncodeError(f"result of {self.name}: {_reason(value, error)}") from error
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLarge(f"result of {self.name}", len(body), BODY_BYTES_MAX)
        return body

    def decode_result(self, body: bytes) -> Any:
        """The result, as the function's return annotation says. Raises DecodeError."""
        try:
            return self._result.decode(body)
        except msgspec.DecodeError as error:
            raise DecodeError(f"result of {self.name}: {error}") from error

    def _convert(self, value: object, wanted: object, where: str, has_outcomes: bool) -> object:
        plain = msgspec.to_builtins(value, builtin_types=_PLAIN) if has_outcomes else value
        try:
            return msgspec.convert(plain, typing.cast("type[object]", wanted))
        except msgspec.ValidationError as error:
            raise DecodeError(f"{where} of {self.name}: {error}{_outcome_advice(value, wanted)}") from error

    def _unencodable(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], encode: Callable[[object], bytes]
    ) -> EncodeError:
        for where, value in [
            *((f"argument {index + 1}", value) for index, value in enumerate(args)),
            *((f'argument "{key}"', value) for key, value in kwargs.items()),
        ]:
            try:
                encode(value)
            except Exception as error:
                return EncodeError(f"{where} of {self.name}: {_reason(value, error)}")
        raise AssertionError("each argument can be encoded, all of them cannot")


def _outcome_advice(value: object, wanted: object) -> str:
    """For a result where an Outcome is wanted, and the other way round."""
    is_outcome, wants_outcome = _has_outcome(value), _names_outcome(wanted)
    if wants_outcome and not is_outcome:
        return "; an Outcome is what after(handle, outcome=True) and group(..., outcomes=True) give"
    if is_outcome and not wants_outcome:
        return "; it is an Outcome: annotate it as one, or leave out `outcome=True` and `outcomes=True`"
    return ""


def _has_outcome(value: object) -> bool:
    parts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return isinstance(value, Outcome) or any(map(_has_outcome, parts))


def _names_outcome(annotation: object) -> bool:
    is_outcome = annotation is Outcome or typing.get_origin(annotation) is Outcome
    return is_outcome or any(map(_names_outcome, typing.get_args(annotation)))


def _reason(value: object, error: Exception) -> str:
    return f"a value of type {type(value).__qualname__} cannot travel ({error})"


def _signature(function: Callable[..., object]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:      # one of C's that does not say: anything goes, and is checked where it runs
        return inspect.signature(lambda *args, **kwargs: None)


def _hints(function: Callable[..., object], signature: inspect.Signature) -> dict[str, Any]:
    """Annotations that ask for a conversion, by parameter name and "return"."""
    raw: dict[str, object] = {p.name: p.annotation for p in signature.parameters.values()}
    raw["return"] = signature.return_annotation
    namespace = getattr(inspect.unwrap(function), "__globals__", {})
    found: dict[str, Any] = {}
    for name, annotation in raw.items():
        if isinstance(annotation, str):
            annotation = _resolve(annotation, namespace)
        if annotation is None:
            annotation = types.NoneType
        if annotation not in _ANYTHING and _can_travel(annotation):
            found[name] = annotation
    return found


def _resolve(annotation: str, namespace: dict[str, Any]) -> object:
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, namespace, include_extras=True)["it"]
    except Exception:                              # imported for type checkers only, or a typo
        return inspect.Parameter.empty


def _can_travel(annotation: object) -> bool:
    try:
        msgspec.msgpack.Decoder(annotation)
    except Exception:
        return False
    info = msgspec.inspect.type_info(annotation)
    return not isinstance(info, msgspec.inspect.CustomType)


