"""`sbh demo`: one tenant damaged and brought back through Dagster, on real servers, with proof.

    demo           the command
    story          the steps, up to the damage
    recovery       the steps after it
    moment         another tenant, ruined between two backups, and back to the moment before
    region         the loss of the region with all backups, and everything back from the copy
    steps          a step is shown while it runs, timed, and told again at the end
    dagster_runs   Dagster as processes of its own

Servers and data come from `embedded/`. What prints is here, so that nothing of it is needed elsewhere.
"""
