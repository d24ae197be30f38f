"""The copier: what the source has and the copy has not, brought over.

`kinds` says which objects are copied, by their names; `inventory` holds both listings against each other; `transfer` stores one
object and proves that it arrived; `folder_copy` does so for a folder. `tenant_copy` and `region_copy` say in which order.
"""
