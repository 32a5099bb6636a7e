// The system's clock, as the port that hosts and executions take.

import { performance } from 'node:perf_hooks';
import type { Clock } from '#control/host';

export const SYSTEM_CLOCK: Clock = Object.freeze({
  nowMs: () => performance.now(),
  stamp: () => new Date().toISOString(),
  sleep: (ms: number, signal?: AbortSignal) =>
    new Promise<void>((resolve) => {
      if (signal?.aborted === true) return resolve();
      const over = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', over);
        resolve();
      };
      const timer = setTimeout(over, ms);
      signal?.addEventListener('abort', over);
    }),
});
