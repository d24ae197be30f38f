"""What goes over the wire: bodies, answers, problems, pages, the OpenAPI document.

A route's `response_model` is `model_of(Result)`, made from the service's result: its `Attributes:` lines describe the fields,
and fields declared with `optional()` are not required. The route answers with `call.answer(result)`, which shows of errors what
the caller may see; the model never touches the bytes. A field that callers see otherwise is named beside it:
`model_of(Result, issues=Sequence[ErrorAnswer])`. What exists on the wire only, such as a page, is a dataclass of the same kind
in `answers.py`; examples are there too, by class.
"""
