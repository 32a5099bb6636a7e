// Events: one for each change of memory, with a number that only grows; and what the kernel's log would say.

import type { BlockId, NodeId, Pfn } from '#base/units';
import type { Refusal } from './refusal.ts';

export type MachineEvent =
  | { readonly seq: number; readonly type: 'going-offline'; readonly block: BlockId }
  | { readonly seq: number; readonly type: 'offline'; readonly block: BlockId; readonly pages: number }
  | { readonly seq: number; readonly type: 'cancel-offline'; readonly block: BlockId; readonly refusal: Refusal }
  | { readonly seq: number; readonly type: 'online'; readonly block: BlockId; readonly zone: string }
  | { readonly seq: number; readonly type: 'add'; readonly start: Pfn; readonly end: Pfn; readonly node: NodeId }
  | { readonly seq: number; readonly type: 'remove'; readonly start: Pfn; readonly end: Pfn; readonly node: NodeId }
  | { readonly seq: number; readonly type: 'node-online'; readonly node: NodeId }
  | { readonly seq: number; readonly type: 'node-offline'; readonly node: NodeId }
  | {
      readonly seq: number;
      readonly type: 'pool';
      readonly verb: PoolVerb;
      /** The pool's name; of what moves between pools, the one that gives. */
      readonly pool: string;
      readonly to?: string;
      readonly pages?: number;
    };

/** What changes pools (src/mm/pools/). */
export type PoolVerb =
  | 'create'
  | 'destroy'
  | 'resize'
  | 'move'
  | 'setattr'
  | 'fallback'
  | 'borrow'
  | 'return'
  | 'reclaim'
  | 'revoke'
  | 'rebase';

/** A line of the kernel's log. `debug`: Linux prints it only with dynamic debug. */
export type LogLine = { readonly level: 'info' | 'warn' | 'debug'; readonly text: string };
