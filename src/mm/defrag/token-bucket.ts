// Token bucket: how much may be done by now. One token is one page copied.
//
//   tokens ── rate a unit of time, `burst` at most ──> spend(n)
//
// Time is the caller's, in whatever unit; it never goes back.

import { assert } from '#base/assert';

export type Rate = {
  /** Tokens that come in a unit of time; Infinity: no limit. */
  readonly rate: number;
  /** The most that may be saved up; there are as many at the start. */
  readonly burst: number;
};

export class TokenBucket {
  readonly #rate: number;
  readonly #burst: number;
  #tokens: number;
  #at = 0;

  constructor({ rate, burst }: Rate) {
    assert(rate >= 0 && burst >= 1, 'a rate is 0 or more, and a burst at least a token', { rate, burst });
    this.#rate = rate;
    this.#burst = burst;
    this.#tokens = burst;
  }

  /** Whole tokens that may be spent at `now`. */
  available(now: number): number {
    assert(now >= this.#at, 'time goes back', { now, at: this.#at });
    if (this.#rate === Number.POSITIVE_INFINITY) return this.#rate;
    this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#at) * this.#rate);
    this.#at = now;
    return Math.floor(this.#tokens);
  }

  /** After `available`: so many are gone. A debt is possible, and is paid by waiting. */
  spend(n: number): void {
    if (this.#rate !== Number.POSITIVE_INFINITY) this.#tokens -= n;
  }
}
