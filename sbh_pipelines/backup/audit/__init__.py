"""The audit trails read: exported, held against the repositories, and summed up for auditors."""
