//! The truth about a port: who has it, and what a bind would say.
