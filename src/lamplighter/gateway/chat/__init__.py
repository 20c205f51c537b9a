"""The page's chats: answers that the server owns, read through tails that may come and go (the resume protocol).

Not responsible for talking to engines (`gateway.relay`), nor for the tables (`store.chats`, `store.generations`).
"""
