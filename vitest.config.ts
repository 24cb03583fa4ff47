import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/fresh-addon.ts'],
    // The addon is loaded once per process and worker_threads tests make their own threads.
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
