import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: { conditions: ['dimmer-src'] },
  ssr: { resolve: { conditions: ['dimmer-src'] } },
  test: {
    include: ['src/**/*.test.ts', 'src/**/*.fuzz.ts', 'test/**/*.test.ts'],
    env: { TZ: 'UTC', LC_ALL: 'C' },
    testTimeout: 600_000, // a busy machine is no failure
    maxWorkers: 2,
  },
});
