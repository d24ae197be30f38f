"""The files of a backup: listed after the snapshot, read where they are new, written into its list.

files_step     lists a tenant's files and takes over, or reads, each of them
file_reader    reads ahead, and knows what became of a file that changed meanwhile
files_beside   the files and the repository in one listing, where the one lies beside the other
"""
