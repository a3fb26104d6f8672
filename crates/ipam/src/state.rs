//! The state file: JSON with a version. An inconsistent file is rejected: two
//! pods with the same address would be worse than an agent that stops with an
//! error.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::pool::{self, Pool};
use crate::{Ipam, Moment, Owner, Released};

const VERSION: u32 = 1;

/// Why a state file is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// Not JSON, or not of this shape.
    #[error("address state cannot be read: {0}; restore the file, or drain the node and remove it")]
    Syntax(String),
    /// Written by another version.
    #[error("address state has version {found}, this agent knows {VERSION}; run the agent that wrote it")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The content contradicts itself.
    #[error("address state is corrupt: {0}; restore the file, or drain the node and remove it")]
    Corrupt(String),
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    pools: Vec<PoolState>,
    owners: Vec<OwnerState>,
    released: Vec<ReleasedState>,
}

#[derive(Serialize, Deserialize)]
struct PoolState {
    cidr: IpNet,
    next: u64,
}

#[derive(Serialize, Deserialize)]
struct OwnerState {
    #[serde(flatten)]
    owner: Owner,
    addresses: Vec<IpAddr>,
}

#[derive(Serialize, Deserialize)]
struct ReleasedState {
    ip: IpAddr,
    at_ms: Moment,
}

impl Ipam {
    /// The whole state as JSON.
    pub fn to_json(&self) -> String {
        let state = StateFile {
            version: VERSION,
            pools: self.pools.iter().map(|pool| PoolState { cidr: pool.cidr, next: pool.next }).collect(),
            owners: self
                .owners
                .iter()
                .map(|(owner, addresses)| OwnerState { owner: owner.clone(), addresses: addresses.clone() })
                .collect(),
            released: self
                .released
                .iter()
                .map(|released| ReleasedState { ip: released.ip, at_ms: released.at })
                .collect(),
        };
        serde_json::to_string(&state).expect("plain structs with string keys always serialise")
    }

    /// Loads a state that [`Ipam::to_json`] wrote.
    pub fn from_json(json: &str, cooldown_ms: u64) -> Result<Ipam, StateError> {
        let state: StateFile =
            serde_json::from_str(json).map_err(|error| StateError::Syntax(error.to_string()))?;
        if state.version != VERSION {
            return Err(StateError::Version { found: state.version });
        }
        let mut ipam = Ipam::new(cooldown_ms);
        state.pools.into_iter().try_for_each(|pool| ipam.load_pool(pool))?;
        state.owners.into_iter().try_for_each(|owner| ipam.load_owner(owner))?;
        state.released.into_iter().try_for_each(|released| ipam.load_released(released))?;
        Ok(ipam)
    }

    fn load_pool(&mut self, state: PoolState) -> Result<(), StateError> {
        let cidr = state.cidr;
        if cidr != cidr.trunc() {
            return Err(corrupt(format!("pool {cidr} has host bits")));
        }
        pool::check(cidr, &self.pools).map_err(corrupt)?;
        let fresh = Pool::new(cidr);
        if !(fresh.next..=fresh.end()).contains(&state.next) {
            return Err(corrupt(format!("the cursor {} of pool {cidr} is outside the pool", state.next)));
        }
        self.pools.push(Pool { cidr, next: state.next });
        Ok(())
    }

    fn load_owner(&mut self, state: OwnerState) -> Result<(), StateError> {
        let families: HashSet<bool> = state.addresses.iter().map(IpAddr::is_ipv6).collect();
        if state.addresses.is_empty() || families.len() != state.addresses.len() {
            return Err(corrupt(format!("{} does not have one address per family", state.owner)));
        }
        for ip in &state.addresses {
            if !self.owned.insert(*ip) {
                return Err(corrupt(format!("{ip} of {} has another owner too", state.owner)));
            }
        }
        match self.owners.insert(state.owner.clone(), state.addresses) {
            Some(_) => Err(corrupt(format!("{} is listed twice", state.owner))),
            None => Ok(()),
        }
    }

    fn load_released(&mut self, state: ReleasedState) -> Result<(), StateError> {
        if self.owned.contains(&state.ip) || !self.released_ips.insert(state.ip) {
            return Err(corrupt(format!("the released address {} is listed twice", state.ip)));
        }
        self.released.push_back(Released { ip: state.ip, at: state.at_ms });
        Ok(())
    }
}

fn corrupt(what: String) -> StateError {
    StateError::Corrupt(what)
}
