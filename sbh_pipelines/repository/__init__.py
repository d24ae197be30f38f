"""A tenant's repository: everything under its backup prefix. What it means is `backup/contents/`; here is how it is stored.

    chunking                       where content is cut into chunks, and how large they are
    seal                           chunks named by HMAC, compressed, encrypted, bound to tenant and name
    pack                           one object of many sealed chunks, and the pipeline that fills and uploads them
    index                          which packs hold which chunks; can be rebuilt from the packs
    inventory                      what lies there at one instant, and what was put, proved by it
    documents                      components, manifests, records: sealed or signed JSON
    open_repository, repository    its keys are unwrapped or made; then it writes and reads all of these
    lease                          the right to write, for a while
    prune_plan, prune, retirement  what no backup needs: decided, retired, removed
    format                         keys of objects and byte layouts, as docs/format.md has them
    keys, catalog, trail           data keys; the region's catalog; audit trails

Content -> chunks -> sealed -> packs -> index -> documents -> manifest.
"""
