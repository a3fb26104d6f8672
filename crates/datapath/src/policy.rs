//! Policy: allows everything until there is policy.

use beeline_abi::context::Context;

use crate::Stop;
use crate::platform::Platform;

/// Whether a new connection may be opened.
#[inline(always)]
pub fn check<P: Platform>(_env: &mut P, _ctx: &mut Context) -> Result<(), Stop> {
    Ok(())
}
