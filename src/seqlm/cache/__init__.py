"""The cache: what can be made again, in folders that belong to this user and that nobody else may write to.

$SEQLM_CACHE, or seqlm in the user's cache folder
    kernels/KEY/    compiled code
    KEY/            tokens, vocabularies and counts of a text
    unpacked/KEY/   members of an archive
    downloads/      files as they were published: each has a known SHA-256
    choices/        the engines that are the fastest on this machine
"""
