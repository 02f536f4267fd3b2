//! Small programs that show one situation each: see `examples/examples`.
