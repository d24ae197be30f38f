"""Data keys as objects of a repository.

An *epoch* is the time during which one data key seals what is written.

    data_key   wrapped by the key provider, one object per epoch
    epochs     wrapped anew, a new epoch begun, an old one destroyed
    remains    what still needs an earlier epoch
"""
