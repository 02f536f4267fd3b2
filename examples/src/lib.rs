//! examples of Longwire.
