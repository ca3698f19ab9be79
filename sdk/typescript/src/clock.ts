/** Time and randomness, in one object so that tests can replace them. */
export const clock = {
  /** Milliseconds of a clock that is never set back. */
  now: (): number => performance.now(),
  /** A number from 0 up to and not including 1. */
  random: (): number => Math.random(),
  /** Waits, or until the signal is aborted. */
  sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', end)
        resolve()
      }
      const timer = setTimeout(end, ms)
      if (signal?.aborted) end()
      else signal?.addEventListener('abort', end)
    })
  },
}
