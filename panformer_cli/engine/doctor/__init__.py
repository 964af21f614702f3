"""What `panformer doctor` examines. Modules import only the standard library at load, since anything may be broken."""
