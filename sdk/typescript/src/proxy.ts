/**
 * The proxy of the environment for a URL: `HTTPS_PROXY` or `HTTP_PROXY`, else `ALL_PROXY`, and `NO_PROXY`. Of each, the form in
 * lower case comes first. This host has no proxy.
 *
 * `NO_PROXY` is a list with commas. An entry is a host name, which stands for its subdomains too, `.name` for the subdomains
 * alone, an address, a network such as `10.0.0.0/8`, or `*`. A name or address may have a port. An empty variable counts as
 * unset. No error contains a user or password.
 */

import { ConfigError } from './errors.js'
import { builtin } from './node.js'

/** Reads a variable of the environment. */
export type Environment = (name: string) => string | undefined

/** The proxy of a request for the URL. Undefined if there is none. */
export function proxyFor(url: URL, environment: Environment): URL | undefined {
  if (isThisHost(url.hostname)) return undefined
  const own = url.protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY'
  // In a CGI program, HTTP_PROXY is the header "Proxy" of a client.
  const forged = (name: string) => name === 'HTTP_PROXY' && environment('REQUEST_METHOD')
  const names = [own.toLowerCase(), own, 'all_proxy', 'ALL_PROXY'].filter((name) => !forged(name))
  const name = names.find((name) => environment(name))
  if (name === undefined || isExcluded(url, environment('no_proxy') || environment('NO_PROXY') || '')) return undefined
  const text = environment(name)!
  const refuse = (rule: string) => new ConfigError('proxy', `${name} ${rule}`)
  let proxy: URL
  try {
    proxy = new URL(/^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`)
  } catch {
    throw refuse('must be a URL such as http://proxy.example.com:3128')
  }
  if (!/^https?:$/.test(proxy.protocol)) throw refuse('must begin with http:// or https://: other proxies are not supported')
  return proxy
}

/** Whether a host is the loopback interface. */
export function isThisHost(hostname: string): boolean {
  return hostname === '[::1]' || /^127(\.\d+){3}$/.test(hostname) || /^(.*\.)?localhost\.?$/.test(hostname)
}

function isExcluded(url: URL, list: string): boolean {
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '')
  const port = url.port || (url.protocol === 'https:' ? '443' : '80')
  return list
    .split(',')
    .map((entry) => entry.trim().toLowerCase())
    .some((entry) => entry !== '' && matches(entry, host, port))
}

function matches(entry: string, host: string, port: string): boolean {
  if (entry === '*') return true
  const isIP = builtin('node:net')?.isIP ?? (() => 0)
  const family = (address: string) => (isIP(address) === 6 ? 'ipv6' : 'ipv4')
  const network = /^(.*)\/(\d{1,3})$/.exec(entry)
  if (network !== null) {
    const [, address = '', prefix] = network
    if (isIP(host) === 0 || isIP(host) !== isIP(address) || Number(prefix) > (isIP(address) === 6 ? 128 : 32)) return false
    const block = new (builtin('node:net')!.BlockList)()
    block.addSubnet(address, Number(prefix), family(address))
    return block.check(host, family(host))
  }
  // An address of IPv6 has colons, and brackets if it has a port.
  const parts = isIP(entry) === 6 ? undefined : /^\[?(.*?)\]?(?::(\d+))?$/.exec(entry)
  const [name, only] = parts ? [parts[1] ?? '', parts[2]] : [entry, undefined]
  if (only !== undefined && only !== port) return false
  if (isIP(host) !== 0 || isIP(name) !== 0) return canonical(name) === canonical(host)
  const suffix = name.replace(/^\*?\./, '')
  return host.endsWith(`.${suffix}`) || (suffix === name && host === name)
}

/** The one form of an address that a URL has. */
function canonical(address: string): string {
  try {
    return new URL(`http://${address.includes(':') ? `[${address}]` : address}`).hostname
  } catch {
    return address
  }
}
