//! The control API of stayput: requests, replies, events and a client.
