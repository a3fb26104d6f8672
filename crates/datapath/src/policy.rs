//! The policy stage. Network policy is not implemented: everything is allowed.

use beeline_abi::context::Context;

use crate::Stop;
use crate::platform::Platform;

/// Whether a new connection is allowed.
///
/// # Errors
///
/// None today.
#[inline(always)]
pub fn check<P: Platform>(_env: &mut P, _ctx: &mut Context) -> Result<(), Stop> {
    Ok(())
}
