// dimmer/hosts/fuse: a KernelFs as a live directory, and commands that take it for the machine's own. Needs root.

export type { MountReason, MountRefusal } from './guard.ts';
export { type MountEnd, type Mounted, type MountOptions, mountFuse, whyNoFuse } from './mount.ts';
export { type InsideOptions, spawnInside } from './namespace.ts';
export { FuseSession, type SessionOptions } from './session.ts';
