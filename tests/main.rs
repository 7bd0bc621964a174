//! Tests of the real tools and scripts, run by scripts/test in namespaces of their own.

mod archive;
mod attacks;
mod cases;
mod clone;
mod contract;
mod copy;
mod documentation;
mod examples;
mod hardening;
mod install;
mod kills;
mod landlock;
mod limits;
mod net;
mod races;
mod refusals;
mod rootless;
mod roots;
mod sandbox;
mod service;
mod services;
mod stores;
mod terminal;
mod trees;
mod upgrade;
mod userns;
