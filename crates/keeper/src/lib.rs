//! The guard and the keeper: they hold every socket and spawn every service.
