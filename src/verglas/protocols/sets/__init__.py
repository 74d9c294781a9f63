"""Put data sets together and take them apart."""
