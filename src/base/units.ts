// Units: branded numbers, so that a block id can never be passed where a frame number is wanted.
//
// A brand costs nothing at run time. `as` casts that create one live in this file only; each function says what
// the caller promises. Arithmetic on a brand yields a plain number, so every re-branding is visible.
//
//   Pfn        physical frame number: phys >> 12. May reach 2^40 (52-bit physical addresses); never shift it.
//   PageIndex  index of a frame in the machine's dense tables, < 2^31. Only present sections have one.
//   Order      log2 of a run of frames, 0..10.
//   NodeId     NUMA node, 0..1023.        BlockId   memory block, the N of /sys/devices/system/memory/memoryN.
//   Bytes, Millis  what they say.

declare const unit: unique symbol;
type Brand<T extends string> = number & { readonly [unit]: T };

export type Pfn = Brand<'Pfn'>;
export type PageIndex = Brand<'PageIndex'>;
export type Order = Brand<'Order'>;
export type NodeId = Brand<'NodeId'>;
export type BlockId = Brand<'BlockId'>;
export type HolderId = Brand<'HolderId'>;
export type Bytes = Brand<'Bytes'>;
export type Millis = Brand<'Millis'>;

/** The caller promises a non-negative integer frame number. */
export const toPfn = (n: number): Pfn => n as Pfn;
/** The caller promises an index below the machine's `frames`. */
export const toPageIndex = (n: number): PageIndex => n as PageIndex;
/** The caller promises 0..10. */
export const toOrder = (n: number): Order => n as Order;
export const toNodeId = (n: number): NodeId => n as NodeId;
export const toBlockId = (n: number): BlockId => n as BlockId;
export const toHolderId = (n: number): HolderId => n as HolderId;
export const toBytes = (n: number): Bytes => n as Bytes;
export const toMillis = (n: number): Millis => n as Millis;
