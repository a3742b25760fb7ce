// An OpenTelemetry Collector that keeps what it receives: the core's service, telemetry, OTLP receiver, exporter `otlphttp` and processors
// `memory_limiter` and `batch`, as Debian packages them, and an exporter `lines` that writes each request as a line of OTLP's JSON.
// tests/peers builds it.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/batchprocessor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
	"go.uber.org/zap"
)

// Config is that of the exporter `lines`.
type Config struct {
	// Path of the file that lines are appended to.
	Path string `mapstructure:"path"`
	// Delay between a request's arrival and its line, and so its answer.
	Delay time.Duration `mapstructure:"delay"`
	// Unavailable is how many requests are refused first, as a full pipeline would refuse them.
	Unavailable int64 `mapstructure:"unavailable"`
	// Invalid is how many requests are then refused for good.
	Invalid int64 `mapstructure:"invalid"`
}

type lines struct {
	config  *Config
	logger  *zap.Logger
	refused atomic.Int64
	mutex   sync.Mutex
	file    *os.File
}

func (l *lines) Start(context.Context, component.Host) (err error) {
	l.file, err = os.OpenFile(l.config.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	return err
}

func (l *lines) Shutdown(context.Context) error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

func (*lines) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{}
}

func (l *lines) ConsumeMetrics(_ context.Context, metrics pmetric.Metrics) error {
	l.logger.Info("request arrived", zap.Int("points", metrics.DataPointCount()))
	return l.take(func() ([]byte, error) { return (&pmetric.JSONMarshaler{}).MarshalMetrics(metrics) })
}

func (l *lines) ConsumeLogs(_ context.Context, logs plog.Logs) error {
	l.logger.Info("request arrived", zap.Int("records", logs.LogRecordCount()))
	return l.take(func() ([]byte, error) { return (&plog.JSONMarshaler{}).MarshalLogs(logs) })
}

// take writes a request, unless it is one to refuse.
func (l *lines) take(marshal func() ([]byte, error)) error {
	time.Sleep(l.config.Delay)
	switch refused := l.refused.Add(1); {
	case refused <= l.config.Unavailable:
		return fmt.Errorf("request %d is one to refuse", refused)
	case refused <= l.config.Unavailable+l.config.Invalid:
		return consumererror.NewPermanent(fmt.Errorf("request %d is one to refuse for good", refused))
	}
	text, err := marshal()
	if err != nil {
		return consumererror.NewPermanent(err)
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	// One write, so that a line is whole whenever this process is killed.
	_, err = l.file.Write(append(text, '\n'))
	return err
}

func factories() (found otelcol.Factories, err error) {
	if found.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory()); err != nil {
		return found, err
	}
	create := func(_ context.Context, set exporter.Settings, config component.Config) (exporter.Metrics, error) {
		return &lines{config: config.(*Config), logger: set.Logger}, nil
	}
	createLogs := func(_ context.Context, set exporter.Settings, config component.Config) (exporter.Logs, error) {
		return &lines{config: config.(*Config), logger: set.Logger}, nil
	}
	linesFactory := exporter.NewFactory(component.MustNewType("lines"), func() component.Config { return &Config{} },
		exporter.WithMetrics(create, component.StabilityLevelDevelopment),
		exporter.WithLogs(createLogs, component.StabilityLevelDevelopment))
	if found.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](linesFactory, otlphttpexporter.NewFactory()); err != nil {
		return found, err
	}
	if found.Processors, err = otelcol.MakeFactoryMap[processor.Factory](memorylimiterprocessor.NewFactory(), batchprocessor.NewFactory()); err != nil {
		return found, err
	}
	found.Telemetry = otelconftelemetry.NewFactory()
	return found, nil
}

func main() {
	settings := otelcol.CollectorSettings{
		Factories: factories,
		BuildInfo: component.BuildInfo{Command: "otelcol", Description: "OpenTelemetry Collector core", Version: version},
	}
	settings.ConfigProviderSettings.ResolverSettings = confmap.ResolverSettings{
		ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory()},
		DefaultScheme:     "file",
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		os.Exit(1)
	}
}

// version is that of Debian's package.
var version = "unknown"
