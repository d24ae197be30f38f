"""Who may do what, who asks, and keys that wrap keys.

    policy                            roles, and the one table of permissions
    tokens, claims, oidc              bearer tokens: believed or not, and what they say
    code_flow, cookies                signing in at the issuer, of every page; what browsers keep of it
    people, revocation                who is one person; tokens that are believed no longer
    signing_key                       the local key that issues tokens
    keys, key_provider                data keys are wrapped by a provider
    aws_kms, key_file                 the two providers

A token -> claims -> a user -> `policy`. A data key -> a provider -> the repository. Secrets are read by `settings/secrets.py`.
"""
