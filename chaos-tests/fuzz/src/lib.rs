//! The fuzz targets of `aa-chaos-tests`, without the servers which that crate also tests.

extern crate self as aa_control_plane;

#[path = "../../src/fuzz.rs"]
pub mod fuzz;
/// The one part of the control plane that a target needs, under the path it has there.
#[path = "../../../nodes/control-plane/src/token.rs"]
pub mod token;
