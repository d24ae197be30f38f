"""Ways to reach people: a channel a file, all of them in the list of `registry`.

    channel    what a channel is, and the HTTP POST that most are made of
    log, webhook, slack, mail, sns, pagerduty    one channel each: `CHANNEL`, which takes an alert or raises
    apprise    a hundred services more, by the library of that name: a channel for each address
    registry   the list of all channels, and those that the settings configure
    delivery   an alert through several channels, three times if need be; what may be shown of an error

No address that may hold a token, no key and no password appears in a log or an error.
"""
