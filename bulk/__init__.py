"""Embeds the texts of Parquet files, as many as there are, through a server that speaks `/v1/embeddings`.

`job` cuts the files into shards, `client` embeds the texts of one, and `engines` work through them, here or on a Ray
cluster. It imports nothing of Conch's other packages, so that it runs wherever the texts are.
"""
