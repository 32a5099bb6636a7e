// Events: one for each change of a memory block, with a number that only grows.

import type { BlockId } from '#base/units';
import type { Refusal } from './refusal.ts';

export type MachineEvent =
  | { readonly seq: number; readonly type: 'going-offline'; readonly block: BlockId }
  | { readonly seq: number; readonly type: 'offline'; readonly block: BlockId; readonly pages: number }
  | { readonly seq: number; readonly type: 'cancel-offline'; readonly block: BlockId; readonly refusal: Refusal }
  | { readonly seq: number; readonly type: 'online'; readonly block: BlockId; readonly zone: string };
