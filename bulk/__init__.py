"""Embeds any number of texts in Parquet files, through a server with the OpenAI API's `/v1/embeddings`.

`job` divides the files into shards, `client` embeds the texts of a shard, and `engines` process the shards in this
process or on a Ray cluster. The package imports nothing from the rest of Conch, so it runs wherever the texts are.
"""
