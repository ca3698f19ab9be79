/** The client. */

import { SecretClient } from './secret.js'
import { settings, type ClientOptions } from './settings.js'

/**
 * A client of AgentRouter.
 *
 * One client is enough for a program. It keeps no state between calls and needs no closing. It connects at the first call.
 * `console.log` and `JSON.stringify` show its settings without the key.
 */
export class Client {
  /** The secret service. */
  readonly secret: SecretClient

  /**
   * Checks the settings. Sends no request.
   *
   * @throws {@link ConfigError} when the base URL or the key is missing or malformed, or a number is out of range.
   */
  constructor(options: ClientOptions = {}) {
    this.secret = new SecretClient(settings(options))
  }
}
