"""etcd beneath a cluster of several machines: the client, elections, and copies that follow a prefix of its keys.

The engine of the directory's store on it is servers/store/etcd.py.
"""
