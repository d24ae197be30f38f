"""Telling people what is wrong: once, when it is worse, and when it is over.

A *condition* is something wrong, under a stable key. An *alert* is what people are sent about it. A *channel* is a way there.

    backup_watch, run_alerts, stuck_runs   sensors: what backups, failed runs and silent runs show
    locations                              other code locations that have this site's name
    run_changes                            runs that began or succeeded since a sensor looked last
    digest                                 how it all stands, at the times that people chose
    conditions                             conditions against a memory: what is to be told. Pure
    alert_sender                           the memory, and what is owed to a channel that was down
    alert                                  the words
    channels                               the ways

Findings and runs -> conditions -> alerts -> channels.
"""
