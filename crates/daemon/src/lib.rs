//! The brain of stayput: readiness, handover, drain, logs and control.
