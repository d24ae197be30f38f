"""Says at once what the run would refuse later: that a second person has to approve."""

from sbh_pipelines.api.app.calls import Call
from sbh_pipelines.api.schema.bodies import OverwritingBody
from sbh_pipelines.errors import ApprovalNeeded


def check_approval(call: Call, tenant: str, body: OverwritingBody) -> None:
    """Only whether one is given, and there; whether it allows exactly this is for the service, when the run uses it up.

    Raises ApprovalNeeded, RequestError.
    """
    if body.approval_id is not None:
        call.service.approvals.get(body.approval_id, tenant, call.user)
    elif call.service.settings.approval.restore != "none" and body.break_glass is None:
        raise ApprovalNeeded(
            "Another person has to approve this",
            why="approval.restore = 'two-person'",
            remedy="ask for it: POST /api/approvals; then give its id as `approval_id`",
        )
