// Block store: what a write to memoryN/state and memoryN/online does (spec 1.10).
//
//   file     text                                            done to the block            when it is so already
//   state    online, online_kernel, online_movable, offline  online, offline              EINVAL
//   online   1 y t on, 0 n f off (kstrtobool)                online by policy, offline    success
//
//   beginning ──ticket──> waits for its turn ──> online at once, or the offline step by step ──> lock given back
//                              cancel: EINTR             cancel: the offline undoes itself, EINTR
//
// While the offline is at work `state` reads going-offline, and every other writer of any block waits: Linux holds
// device_hotplug_lock all along. An offline of pages that never move ends at the engine's bound with EINTR; where the
// tree is told to wait and the machine is Linux to the letter, it goes on until it is cancelled, as there.
//
// Follows Linux v6.12 drivers/base/memory.c: state_store(), drivers/base/core.c: online_store(), device_offline().

import { assert } from '#base/assert';
import type { ErrnoName } from '#base/errno';
import type { BlockId } from '#base/units';
import type { Ticket } from '#mm/hotplug-lock';
import type { Machine } from '#mm/machine';
import { deviceOnline, type StateWord, stateWord, storeOnline } from '#mm/memory-device';
import type { OfflineWork } from '#mm/memory-hotplug';
import type { Stored, StoreJob, StoreOptions } from './tree-node.ts';

/** A write to `state`. */
export function storeState(m: Machine, id: BlockId, text: string, options: StoreOptions): Stored {
  const said = stateWord(text);
  return said === undefined ? 'EINVAL' : new BlockJob(m, id, { kind: 'state', word: said }, options);
}

/** A write to `online`. */
export function storeOnlineFlag(m: Machine, id: BlockId, text: string, options: StoreOptions): Stored {
  const said = readBool(text);
  if (said === undefined) return 'EINVAL';
  return new BlockJob(m, id, { kind: 'flag', word: said ? 'online' : 'offline' }, options);
}

/** kstrtobool(): the first character decides, of "on" and "off" the second. */
export function readBool(text: string): boolean | undefined {
  const first = text[0]?.toLowerCase();
  if (first === 'y' || first === 't' || first === '1') return true;
  if (first === 'n' || first === 'f' || first === '0') return false;
  const second = first === 'o' ? text[1]?.toLowerCase() : undefined;
  return second === 'n' ? true : second === 'f' ? false : undefined;
}

type Wish =
  | { readonly kind: 'state'; readonly word: StateWord }
  | { readonly kind: 'flag'; readonly word: 'online' | 'offline' };

class BlockJob implements StoreJob {
  readonly #m: Machine;
  readonly #id: BlockId;
  readonly #wish: Wish;
  readonly #rounds: number | undefined;
  readonly #ticket: Ticket;
  #work: OfflineWork | undefined;
  #cancelled = false;
  #over = false;

  constructor(m: Machine, id: BlockId, wish: Wish, options: StoreOptions) {
    this.#m = m;
    this.#id = id;
    this.#wish = wish;
    this.#rounds = options.endless && m.spec.compat === 'linux' ? Number.POSITIVE_INFINITY : undefined;
    this.#ticket = m.hotplug.lock.request();
  }

  get waits(): boolean {
    return !this.#over && !this.#cancelled && !this.#m.hotplug.lock.holds(this.#ticket);
  }

  step(): 'ok' | ErrnoName | undefined {
    assert(!this.#over, 'the write is over', { block: this.#id });
    if (this.#work !== undefined) return this.#advance(this.#work);
    if (this.#cancelled) return this.#end('EINTR');
    if (this.waits) return undefined;
    const info = this.#m.block(this.#id);
    if (info === undefined) return this.#end('ENODEV'); // removed while this waited
    const { word } = this.#wish;
    if (word !== 'offline') return this.#end(this.#online(word));
    if (info.state === 'offline') return this.#end(this.#wish.kind === 'flag' ? 'ok' : 'EINVAL');
    this.#work = this.#m.beginOffline(this.#id, this.#rounds === undefined ? {} : { rounds: this.#rounds });
    return this.#advance(this.#work);
  }

  #online(how: Exclude<StateWord, 'offline'>): 'ok' | ErrnoName {
    const m = this.#m;
    if (this.#wish.kind === 'flag' && m.block(this.#id)?.state !== 'offline') return 'ok';
    const done = this.#wish.kind === 'flag' ? deviceOnline(m, this.#id) : storeOnline(m, this.#id, how);
    return done.ok ? 'ok' : done.error.errno;
  }

  cancel(): void {
    this.#cancelled = true;
    this.#work?.cancel();
  }

  #advance(work: OfflineWork): 'ok' | ErrnoName | undefined {
    if (!work.finished) work.step();
    if (!work.finished) return undefined;
    return this.#end(work.refusal === undefined ? 'ok' : work.refusal.errno);
  }

  #end(outcome: 'ok' | ErrnoName): 'ok' | ErrnoName {
    this.#over = true;
    this.#m.hotplug.lock.release(this.#ticket);
    return outcome;
  }
}
