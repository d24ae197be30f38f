"""How settings are read, and what is said of those that cannot be.

fields        a setting by its name, the setting that a wrong name was meant for, and what a value of it looks like
environment   the variables: each is known, and can be read
file          `sbh.toml`
problems      what is wrong with the values, with what to write instead
"""
