// Virtual clock: time that passes only when somebody waits for it, so that a minute's deadline costs no minute.
//
//   sleep(250)   now += 10, listeners; now += 10, listeners; ... 25 times        whoever lives in this time works then
//
// Deterministic: the same sleeps give the same times. It begins at 1970-01-01 if nobody says otherwise.

import type { Clock } from '#control/host';

/** How coarse time passes for listeners. */
const SLICE_MS = 10;

export class VirtualClock implements Clock {
  #nowMs: number;
  readonly #listeners: ((nowMs: number) => void)[] = [];
  readonly #alarms: { readonly atMs: number; readonly ring: () => void }[] = [];

  /** @param startMs  milliseconds since 1970. Default 0. */
  constructor(startMs = 0) {
    this.#nowMs = startMs;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  stamp(): string {
    return isoOf(this.#nowMs);
  }

  /** Called whenever time has passed. */
  onTick(listener: (nowMs: number) => void): void {
    this.#listeners.push(listener);
  }

  /** Called once, when it is `atMs`. */
  at(atMs: number, ring: () => void): void {
    this.#alarms.push({ atMs, ring });
  }

  /** So much time passes. */
  advance(ms: number): void {
    const endMs = this.#nowMs + Math.max(0, ms);
    do {
      this.#nowMs = Math.min(endMs, this.#nowMs + SLICE_MS);
      for (const listener of this.#listeners) listener(this.#nowMs);
      for (const alarm of this.#alarms.filter((a) => a.atMs <= this.#nowMs)) {
        this.#alarms.splice(this.#alarms.indexOf(alarm), 1);
        alarm.ring();
      }
    } while (this.#nowMs < endMs);
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const endMs = this.#nowMs + ms;
    while (signal?.aborted !== true && this.#nowMs < endMs) this.advance(Math.min(SLICE_MS, endMs - this.#nowMs));
  }
}

/** Milliseconds since 1970 as ISO 8601 in UTC; days by the civil calendar's 400-year cycle. */
function isoOf(ms: number): string {
  const pad = (n: number, width = 2): string => String(n).padStart(width, '0');
  const days = Math.floor(ms / 86_400_000);
  const z = days + 719_468; // days since 0000-03-01
  const era = Math.floor(z / 146_097);
  const inEra = z - era * 146_097;
  const year = Math.floor(
    (inEra - Math.floor(inEra / 1460) + Math.floor(inEra / 36_524) - Math.floor(inEra / 146_096)) / 365,
  );
  const inYear = inEra - (365 * year + Math.floor(year / 4) - Math.floor(year / 100));
  const march = Math.floor((5 * inYear + 2) / 153);
  const day = inYear - Math.floor((153 * march + 2) / 5) + 1;
  const month = march < 10 ? march + 3 : march - 9;
  const rest = ms - days * 86_400_000;
  const time = [Math.floor(rest / 3_600_000), Math.floor(rest / 60_000) % 60, Math.floor(rest / 1000) % 60];
  const date = `${pad(year + era * 400 + (month <= 2 ? 1 : 0), 4)}-${pad(month)}-${pad(day)}`;
  return `${date}T${time.map((n) => pad(n)).join(':')}.${pad(rest % 1000, 3)}Z`;
}
