//! The pure core of stayput: what a service is and what happens next.

pub mod text;
